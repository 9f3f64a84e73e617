"""The names of redimnet-mrl, for scripts that change one import; `nestvox.compat.redimnet_mrl` holds them."""

from nestvox.compat.redimnet_mrl.api import (
    create_mrl_from_pretrained,
    evaluate_mrl_eer,
    get_model_info,
    import_checkpoint,
    load_audio,
    load_pretrained_redimnet,
    load_trained_mrl,
    unfreeze_backbone,
)
from nestvox.compat.redimnet_mrl.losses import AAMSoftmax, MatryoshkaLoss, SubCenterAAMSoftmax, TripletLoss
from nestvox.compat.redimnet_mrl.network import MatryoshkaProjection, PretrainedReDimNet, ReDimNetMRL

__all__ = [
    "AAMSoftmax",
    "MatryoshkaLoss",
    "MatryoshkaProjection",
    "PretrainedReDimNet",
    "ReDimNetMRL",
    "SubCenterAAMSoftmax",
    "TripletLoss",
    "create_mrl_from_pretrained",
    "evaluate_mrl_eer",
    "get_model_info",
    "import_checkpoint",
    "load_audio",
    "load_pretrained_redimnet",
    "load_trained_mrl",
    "unfreeze_backbone",
]
