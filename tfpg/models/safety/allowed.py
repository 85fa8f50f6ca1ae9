"""The classes and functions of Keras that a model file may name, and those it never may.

What is listed computes tensors from tensors. It reads no file, takes no function that is not listed
itself, and makes nothing larger than its weights and inputs; images are augmented elsewhere.
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
# Not those with a number of classes or thresholds, whose square they would allocate.
_METRICS = """
Accuracy BinaryAccuracy BinaryCrossentropy CategoricalAccuracy CategoricalCrossentropy
CategoricalHinge CosineSimilarity Hinge KLDivergence LogCoshError Mean MeanAbsoluteError
MeanAbsolutePercentageError MeanMetricWrapper MeanSquaredError MeanSquaredLogarithmicError Poisson
R2Score RootMeanSquaredError SparseCategoricalAccuracy SparseCategoricalCrossentropy
SparseTopKCategoricalAccuracy SquaredHinge Sum TopKCategoricalAccuracy
"""

CLASSES = {
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
        "keras.src.ops.core": (
            "Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate "
            "StopGradient Unstack"
        ),
    }.items()
}
# Of these every class but the refused ones: functions of keras.ops, on tensors of the graph.
OPERATIONS = frozenset(
    f"keras.src.ops.{name}" for name in ("image", "linalg", "math", "nn", "numpy")
)

FUNCTION_MODULES = frozenset(
    ("builtins", "keras.activations", "keras.losses", "keras.metrics", "keras.ops")
)
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
FUNCTIONS = frozenset(_FUNCTIONS.split())

# Values that Keras writes like objects; they hold no class.
VALUES = frozenset(
    ("__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__", "__bytes__")
)
_DTYPES = """
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
complex64 complex128
"""
DTYPES = frozenset(_DTYPES.split())

_ANY_FILE = "can read any file as its vocabulary"
_NAMED_CODE = "calls code that the file names"
REFUSED = {
    "Lambda": "holds Python code",
    "__lambda__": "is Python code",
    "TFSMLayer": "loads a TensorFlow program from a path that the file names",
    "TorchModuleWrapper": "is a pickle, and unpickling runs code",
    "JaxLayer": _NAMED_CODE,
    "FlaxLayer": _NAMED_CODE,
    "JVP": _NAMED_CODE,
    "__typespec__": "is a TensorFlow type that the file names",
    "StringLookup": _ANY_FILE,
    "IntegerLookup": _ANY_FILE,
    "TextVectorization": _ANY_FILE,
}
# They make something in Python for every step or part.
LOOPS = frozenset(
    ("ArraySplit", "Dsplit", "Hsplit", "Meshgrid", "Split", "TimeDistributed", "Unstack", "Vsplit")
)
