// classify model.plan IMAGE...            the best class of each image
// classify --dump-input OUT IMAGE         the bytes that the plan is given of an image
#include <iostream>

#include "classifier.hpp"

int main(int count, char **arguments) {
    const std::vector<std::string> given(arguments + 1, arguments + count);
    try {
        if (given.size() == 3 && given[0] == "--dump-input") {
            const auto bytes = edgecnn::arrange(edgecnn::prepare(edgecnn::decode(given[2])));
            std::ofstream file(given[1], std::ios::binary);
            file.write(bytes.data(), std::streamsize(bytes.size()));
            if (!file.flush()) throw std::runtime_error(given[1] + ": cannot be written");
            return 0;
        }
#ifdef WITH_TENSORRT
        if (given.size() >= 2 && given[0].rfind("--", 0) != 0) {
            edgecnn::Classifier classifier(given[0]);
            for (std::size_t k = 1; k < given.size(); ++k) {
                const auto values = classifier.run(edgecnn::arrange(edgecnn::prepare(edgecnn::decode(given[k]))));
                const auto best = std::max_element(values.begin(), values.end()) - values.begin();
                std::cout << given[k] << '\t' << best << '\t' << settings::labels[best] << '\t' << values[best] << '\n';
            }
            return 0;
        }
#endif
        std::cerr << "usage: classify model.plan IMAGE... | classify --dump-input OUT IMAGE\n";
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << '\n';
    }
    return 2;
}
