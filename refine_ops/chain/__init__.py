"""One image, from its bytes to the bytes to publish: read -> focus -> register -> refine -> align -> paste -> judge ->
verify.

`Refinement` is the chain cut open where the model runs, so that a worker can batch the regions of many images;
`refine_image` is the same chain for one image at a time, unjudged.
"""

from refine_ops.chain.finish import Finished, Judged, finish, finish_shown, refine_image, refine_opened
from refine_ops.chain.refinement import Refinement
from refine_ops.chain.turn import seed_of

__all__ = ["Finished", "Judged", "Refinement", "finish", "finish_shown", "refine_image", "refine_opened", "seed_of"]
