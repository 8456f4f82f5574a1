"""Operations: a folder each, with its reference, its fast algorithms and its registration."""
