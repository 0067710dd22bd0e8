//! Shapes of results, which Fusion is told before a kernel runs.

use burn::tensor::Shape;

use super::linear::{Epilogue, Packing};

pub fn linear(rows: &Shape, weight: &Shape, epilogue: &Epilogue) -> Shape {
    Shape::from([rows[0], weight[0] / epilogue.per_output()])
}

pub fn unpacked(words: &Shape, packing: &Packing) -> Shape {
    Shape::from([words[0], words[1] * packing.per_word()])
}
