// Decoding, preprocessing and a TensorRT plan of one classifier, whose settings stand in settings.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>

#ifdef WITH_TENSORRT
#include <NvInfer.h>
#include <cuda_runtime_api.h>
#include <iostream>
#endif

#include "settings.hpp"

namespace edgecnn {

/// uint8 pixels, row by row, the channels of a pixel beside each other.
struct Picture {
    int width = 0, height = 0, channels = 0;
    std::vector<std::uint8_t> pixels;

    Picture() = default;
    Picture(int w, int h, int c) : width(w), height(h), channels(c), pixels(std::size_t(w) * h * c) {}
    std::uint8_t &at(int x, int y, int c) { return pixels[(std::size_t(y) * width + x) * channels + c]; }
    std::uint8_t at(int x, int y, int c) const { return pixels[(std::size_t(y) * width + x) * channels + c]; }
};

inline std::vector<char> read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline Picture decode_jpeg(const std::vector<char> &data) {
    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    info.err = jpeg_std_error(&errors);
    errors.error_exit = [](j_common_ptr common) {
        char text[JMSG_LENGTH_MAX];
        common->err->format_message(common, text);
        throw std::runtime_error(text);
    };
    errors.output_message = [](j_common_ptr) {};  // what it warns of is counted, and refused below
    jpeg_create_decompress(&info);
    struct Guard {
        jpeg_decompress_struct *info;
        ~Guard() { jpeg_destroy_decompress(info); }
    } guard{&info};
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char *>(data.data()), data.size());
    jpeg_read_header(&info, TRUE);
    if (info.num_components != 1 && info.num_components != 3) throw std::runtime_error("neither gray nor color");
    if (std::uint64_t(info.image_width) * info.image_height > (1u << 28)) throw std::runtime_error("too many pixels");
    info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&info);
    Picture made(int(info.output_width), int(info.output_height), info.num_components);
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = &made.at(0, int(info.output_scanline), 0);
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    if (errors.num_warnings > 0) throw std::runtime_error("damaged");
    return made;
}

/// A binary PGM or PPM of 8 bits.
inline Picture decode_netpbm(const std::vector<char> &data) {
    std::size_t at = 2;
    std::array<long, 3> header{};
    for (long &number : header) {
        while (at < data.size() && (std::isspace(static_cast<unsigned char>(data[at])) || data[at] == '#')) {
            if (data[at] == '#') while (at < data.size() && data[at] != '\n') ++at;
            else ++at;
        }
        while (at < data.size() && data[at] >= '0' && data[at] <= '9' && number < 100000) number = 10 * number + data[at++] - '0';
    }
    ++at;
    const long channels = data[1] == '5' ? 1 : 3;
    if (header[0] < 1 || header[1] < 1 || header[0] > 65500 || header[1] > 65500 || header[2] != 255)
        throw std::runtime_error("not a PGM or PPM of 8 bits");
    const std::size_t size = std::size_t(header[0]) * header[1] * channels;
    if (at > data.size() || data.size() - at < size) throw std::runtime_error("truncated");
    Picture made{};
    made.width = int(header[0]), made.height = int(header[1]), made.channels = int(channels);
    made.pixels.assign(data.begin() + long(at), data.begin() + long(at + size));
    return made;
}

inline Picture decode(const std::string &path) {
    const std::vector<char> data = read_file(path);
    try {
        if (data.size() > 2 && data[0] == 'P' && (data[1] == '5' || data[1] == '6')) return decode_netpbm(data);
        return decode_jpeg(data);
    } catch (const std::runtime_error &error) {
        throw std::runtime_error(path + ": " + error.what() + " (JPEG, binary PGM and PPM are read)");
    }
}

/// The channels that the network takes, red first; gray as ITU-R 601-2 weighs colors, in 16 bits.
inline Picture with_channels(const Picture &from) {
    if (from.channels == settings::channels) return from;
    Picture made(from.width, from.height, settings::channels);
    for (std::size_t k = 0; k < std::size_t(from.width) * from.height; ++k) {
        if (settings::channels == 1) {
            const std::uint8_t *rgb = &from.pixels[3 * k];
            made.pixels[k] = std::uint8_t((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
        } else {
            for (int c = 0; c < 3; ++c) made.pixels[3 * k + c] = from.pixels[k];
        }
    }
    return made;
}

inline double kernel(double x) {
    constexpr double pi = 3.14159265358979323846;
    x = std::fabs(x);
    if (settings::support == 1) return x < 1 ? 1 - x : 0;
    if (settings::support == 2) {  // bicubic, a = -0.5
        if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
        return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    }
    const auto sinc = [](double v) { return v == 0 ? 1.0 : std::sin(v * pi) / (v * pi); };
    return x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/// One axis resized with antialiasing, in fixed point of 22 bits, rounded to uint8.
inline Picture resize_axis(const Picture &from, int size, bool across) {
    const int before = across ? from.width : from.height;
    const double scale = double(before) / size, widened = std::max(scale, 1.0);
    Picture made(across ? size : from.width, across ? from.height : size, from.channels);
    for (int out = 0; out < size; ++out) {
        const double center = (out + 0.5) * scale, reach = settings::support * widened;
        const int first = std::max(0, int(center - reach + 0.5)), last = std::min(before, int(center + reach + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int k = first; k < last; ++k) {
            weights.push_back(kernel((k - center + 0.5) * (1 / widened)));
            sum += weights.back();
        }
        std::vector<int> fixed;
        for (double w : weights) {
            const double value = (sum != 0 ? w / sum : w) * (1 << 22);
            fixed.push_back(int(value < 0 ? value - 0.5 : value + 0.5));
        }
        const int others = across ? from.height : from.width;
        for (int other = 0; other < others; ++other)
            for (int c = 0; c < from.channels; ++c) {
                int total = 1 << 21;
                for (int k = first; k < last; ++k)
                    total += fixed[k - first] * (across ? from.at(k, other, c) : from.at(other, k, c));
                const auto value = std::uint8_t(std::clamp(total >> 22, 0, 255));
                (across ? made.at(out, other, c) : made.at(other, out, c)) = value;
            }
    }
    return made;
}

/// Where a centered crop begins; negative where the picture is smaller.
inline int before_crop(int size, int crop) {
    return size < crop ? -((crop - size) / 2) : int(std::nearbyint((size - crop) / 2.0));
}

inline Picture crop_center(const Picture &from) {
    Picture made(settings::width, settings::height, from.channels);
    const int left = before_crop(from.width, made.width), top = before_crop(from.height, made.height);
    for (int y = std::max(0, -top); y < made.height && y + top < from.height; ++y)
        for (int x = std::max(0, -left); x < made.width && x + left < from.width; ++x)
            for (int c = 0; c < from.channels; ++c) made.at(x, y, c) = from.at(x + left, y + top, c);
    return made;
}

/// The picture as the network sees it, uint8.
inline Picture prepare(const Picture &picture) {
    Picture made = with_channels(picture);
    const int small = std::min(made.width, made.height), large = std::max(made.width, made.height);
    int width = made.width, height = made.height;
    if (settings::squash) {
        width = settings::width, height = settings::height;
    } else if (small != settings::resize) {
        const int scaled = int(double(std::int64_t(settings::resize) * large) / small);
        if (std::int64_t(scaled) * settings::resize > (1 << 28)) throw std::runtime_error("too long a picture");
        width = made.width <= made.height ? settings::resize : scaled;
        height = made.width <= made.height ? scaled : settings::resize;
    }
    if (width != made.width) made = resize_axis(made, width, true);
    if (height != made.height) made = resize_axis(made, height, false);
    return crop_center(made);
}

/// The bytes of one image as the plan takes it.
inline std::vector<char> arrange(const Picture &picture) {
    const int planes = picture.channels, area = picture.width * picture.height;
    const auto source = [&](int c) { return settings::bgr ? planes - 1 - c : c; };
    if (settings::uint8_nhwc) {
        std::vector<char> made(picture.pixels.size());
        for (int k = 0; k < area; ++k)
            for (int c = 0; c < planes; ++c) made[k * planes + c] = char(picture.pixels[k * planes + source(c)]);
        return made;
    }
    std::vector<char> made(sizeof(float) * planes * area);
    auto *values = reinterpret_cast<float *>(made.data());
    for (int c = 0; c < planes; ++c)
        for (int k = 0; k < area; ++k) {
            float value = picture.pixels[k * planes + source(c)];
            if (settings::normalised) {
                value /= 255.0f;
                value -= settings::mean[c];
                value /= settings::std[c];
            }
            values[c * area + k] = value;
        }
    return made;
}

#ifdef WITH_TENSORRT
inline void require(bool holds, const char *what) {
    if (!holds) throw std::runtime_error(what);
}

/// A plan, one image at a time. It is native code: load only what you built yourself.
class Classifier {
    struct Logger : nvinfer1::ILogger {
        void log(Severity severity, const char *text) noexcept override {
            if (severity <= Severity::kWARNING) std::cerr << text << '\n';
        }
    } logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    cudaStream_t stream_{};
    void *input_{}, *output_{};

  public:
    explicit Classifier(const std::string &path) {
        const std::vector<char> plan = read_file(path);
        if (plan.size() < 28 || std::string(plan.data(), 4) != "ftrt") throw std::runtime_error(path + ": no plan of TensorRT");
        if (plan[24] != NV_TENSORRT_MAJOR || plan[25] != NV_TENSORRT_MINOR)
            throw std::runtime_error(path + ": built by TensorRT " + std::to_string(plan[24]) + "." + std::to_string(plan[25]) +
                                     ", here is " + std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR));
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        require(runtime_ != nullptr, "TensorRT does not start");
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        require(engine_ != nullptr, "TensorRT does not load the plan");
        context_.reset(engine_->createExecutionContext());
        require(context_ != nullptr, "no execution context: out of memory?");
        const nvinfer1::Dims4 shape = settings::uint8_nhwc
            ? nvinfer1::Dims4{1, settings::height, settings::width, settings::channels}
            : nvinfer1::Dims4{1, settings::channels, settings::height, settings::width};
        require(context_->setInputShape("input", shape), "the plan does not take one image");
        require(cudaStreamCreate(&stream_) == cudaSuccess, "no CUDA stream");
        const std::size_t image = std::size_t(settings::channels) * settings::height * settings::width;
        require(cudaMalloc(&input_, image * (settings::uint8_nhwc ? 1 : 4)) == cudaSuccess, "no device memory");
        require(cudaMalloc(&output_, sizeof(float) * settings::classes) == cudaSuccess, "no device memory");
        require(context_->setTensorAddress("input", input_) && context_->setTensorAddress(settings::output, output_),
                "the plan has other tensors");
    }
    Classifier(const Classifier &) = delete;
    Classifier &operator=(const Classifier &) = delete;
    ~Classifier() {
        cudaFree(input_);
        cudaFree(output_);
        if (stream_) cudaStreamDestroy(stream_);
    }

    /// What the plan gives for the bytes of one image, a value for each class.
    std::vector<float> run(const std::vector<char> &image) {
        std::vector<float> made(settings::classes);
        require(cudaMemcpyAsync(input_, image.data(), image.size(), cudaMemcpyHostToDevice, stream_) == cudaSuccess, "copy in");
        require(context_->enqueueV3(stream_), "enqueue");
        require(cudaMemcpyAsync(made.data(), output_, sizeof(float) * made.size(), cudaMemcpyDeviceToHost, stream_) == cudaSuccess,
                "copy out");
        require(cudaStreamSynchronize(stream_) == cudaSuccess, "the GPU failed");
        return made;
    }
};
#endif

}  // namespace edgecnn
