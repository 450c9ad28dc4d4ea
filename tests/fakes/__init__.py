"""What tests share: strict fakes of TensorRT and CUDA, small graphs and networks, and what is done with them."""
