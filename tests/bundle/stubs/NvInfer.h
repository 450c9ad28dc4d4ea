// The names of TensorRT 10's C++ interface that the bundled program uses; nothing behind them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
namespace nvinfer1 {
struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};
struct Dims4 : Dims {
    Dims4(std::int64_t, std::int64_t, std::int64_t, std::int64_t);
};
class ILogger {
  public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, char const *text) noexcept = 0;
    virtual ~ILogger() = default;
};
class IExecutionContext {
  public:
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const *name, Dims const &dims) noexcept;
    bool setTensorAddress(char const *name, void *data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};
class ICudaEngine {
  public:
    virtual ~ICudaEngine() noexcept = default;
    IExecutionContext *createExecutionContext() noexcept;
};
class IRuntime {
  public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept;
};
IRuntime *createInferRuntime(ILogger &logger) noexcept;
}  // namespace nvinfer1
