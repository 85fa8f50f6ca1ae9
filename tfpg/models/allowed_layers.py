"""The Keras classes and functions that a model file may name.

Everything here computes tensors from tensors: nothing reads a file or calls a function that is not
listed itself. Anything else, including what future versions of Keras add, needs ``custom_objects``.
"""

from __future__ import annotations

_LAYERS = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D
BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose
Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense
Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D
GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
GlobalMaxPooling3D GroupNormalization GroupQueryAttention HashedCrossing Hashing Identity InputLayer
LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum
Minimum MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN ReLU
RepeatVector Rescaling Reshape Resizing ReversibleEmbedding SeparableConv1D SeparableConv2D
SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D
SpectralNormalization StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D
UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_OPTIMIZERS = """
Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion LossScaleOptimizer Muon Nadam RMSprop
SGD ScheduleFreeAdamW
"""
_SCHEDULES = """
CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay PiecewiseConstantDecay
PolynomialDecay
"""
_INITIALIZERS = """
Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
_LOSSES = """
BinaryCrossentropy BinaryFocalCrossentropy CTC CategoricalCrossentropy CategoricalFocalCrossentropy
CategoricalGeneralizedCrossEntropy CategoricalHinge Circle CosineSimilarity Dice Hinge Huber
KLDivergence LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError
MeanSquaredLogarithmicError Poisson SparseCategoricalCrossentropy SquaredHinge Tversky
"""
# Metrics with a number of classes or thresholds are missing: they allocate its square.
_METRICS = """
Accuracy BinaryAccuracy BinaryCrossentropy CategoricalAccuracy CategoricalCrossentropy
CategoricalHinge CosineSimilarity Hinge KLDivergence LogCoshError Mean MeanAbsoluteError
MeanAbsolutePercentageError MeanMetricWrapper MeanSquaredError MeanSquaredLogarithmicError Poisson
R2Score RootMeanSquaredError SparseCategoricalAccuracy SparseCategoricalCrossentropy
SparseTopKCategoricalAccuracy SquaredHinge Sum TopKCategoricalAccuracy
"""
# Operations of keras.ops that models use. Those that take callables or make tensors from nothing
# are missing.
_NUMPY_OPERATIONS = """
Absolute Add All Any Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Argmax Argmin Argsort
Average BroadcastTo Cbrt Ceil Clip Concatenate Copy Cos Cosh CountNonzero Cross Cumprod Cumsum
Diagonal Diff Divide DivideNoNan Dot Einsum Equal Exp Exp2 ExpandDims Expm1 Flip Floor FloorDivide
GetItem Greater GreaterEqual Hstack Hypot Isclose Isfinite Isinf Isnan Less LessEqual Log Log10
Log1p Log2 Logaddexp LogicalAnd LogicalNot LogicalOr LogicalXor Matmul Max Maximum Mean Median Min
Minimum Mod Moveaxis Multiply NanToNum Negative NotEqual OnesLike Outer Pad Power Prod Quantile
Ravel Reciprocal Repeat Reshape Roll Round Sign Sin Sinh Sort Split Sqrt Square Squeeze Stack Std
Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile Transpose Tril Triu TrueDivide
Trunc Var Vdot Vstack Where ZerosLike
"""
_NN_OPERATIONS = """
AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm BinaryCrossentropy
CategoricalCrossentropy Celu Conv ConvTranspose DepthwiseConv DotProductAttention Elu Gelu Glu
HardShrink HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments
MultiHot Normalize OneHot RMSNorm Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax
Softplus Softsign SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Squareplus
TanhShrink Threshold
"""
_CORE_OPERATIONS = """
Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate StopGradient Unstack
"""

ALLOWED_CLASSES = {
    module: frozenset(names.split())
    for module, names in {
        "keras": "DTypePolicy Sequential",
        "keras.src.models.functional": "Functional",
        "keras.layers": _LAYERS,
        "keras.optimizers": _OPTIMIZERS,
        "keras.optimizers.schedules": _SCHEDULES,
        "keras.initializers": _INITIALIZERS,
        "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
        "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
        "keras.losses": _LOSSES,
        "keras.metrics": _METRICS,
        "keras.random": "SeedGenerator",
        "keras.src.activations.activations": "Mish ReLU",
        "keras.src.ops.core": _CORE_OPERATIONS,
        "keras.src.ops.image": "RGBToGrayscale Resize",
        "keras.src.ops.linalg": "Cholesky Det Inv Norm Solve",
        "keras.src.ops.math": "Erf Logsumexp Rsqrt TopK",
        "keras.src.ops.nn": _NN_OPERATIONS,
        "keras.src.ops.numpy": _NUMPY_OPERATIONS,
    }.items()
}

_FUNCTIONS = """
celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear
log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign
sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
binary_accuracy binary_crossentropy binary_focal_crossentropy categorical_accuracy
categorical_crossentropy categorical_focal_crossentropy categorical_generalized_cross_entropy
categorical_hinge circle cosine_similarity ctc dice hinge huber kl_divergence log_cosh
mean_absolute_error mean_absolute_percentage_error mean_squared_error
mean_squared_logarithmic_error poisson sparse_categorical_accuracy
sparse_categorical_crossentropy sparse_top_k_categorical_accuracy squared_hinge
top_k_categorical_accuracy tversky
"""
ALLOWED_FUNCTIONS = {
    module: frozenset(_FUNCTIONS.split())
    for module in ("builtins", "keras.activations", "keras.losses", "keras.metrics", "keras.ops")
}

# Plain values that Keras writes in the same form as objects.
VALUES = frozenset(
    ("__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__", "__bytes__")
)
_DTYPES = """
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
complex64 complex128
"""
DTYPES = frozenset(_DTYPES.split())

# Why some names are missing above, for the error message.
_CODE = "contains Python code"
_VOCABULARY = "can read any file as its vocabulary"
REFUSED_CLASSES = {
    "Lambda": _CODE,
    "__lambda__": _CODE,
    "TFSMLayer": "runs a TensorFlow program from a path that the file names",
    "TorchModuleWrapper": "contains a pickle, which can run code",
    "StringLookup": _VOCABULARY,
    "IntegerLookup": _VOCABULARY,
    "TextVectorization": _VOCABULARY,
}
# Options of allowed classes that are refused when they are set.
REFUSED_OPTIONS = {
    "stateful": "allocates a state for any batch size that the file names",
    "exclude_layers": "is a regular expression, which can take forever to match",
}
