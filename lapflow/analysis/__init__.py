"""What is known of a composition without training it: the Gaussian oracle, its checks, and costs."""
