//! Left sides in the order of the masks.

use cubecl::prelude::*;

use super::{
    super::super::{matrix_instruction::PLANE, rms_norm::scaled, row::lanes_sum},
    LANES, MatrixShape, PLANES, WIDTH,
};

/// Left sides in shared memory.
#[derive(CubeType)]
pub(super) struct Left<W: Size> {
    /// The bits of vectors: for each block the first ones of its lanes' loads, then the second ones, and
    /// so on.
    pub vectors: Shared<[Vector<i32, W>]>,
    /// The sum of each block.
    pub sums: Shared<[f32]>,
}

/// Norms the left sides, if they are to be normed, and puts them in order. Every unit of the cube must
/// reach it.
#[cube]
pub(super) fn stage_left<F: Float, N: Size, W: Size>(
    rows: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    epsilon: f32,
    #[comptime] shape: MatrixShape,
) -> Left<W> {
    let m = comptime!(shape.left_sides);
    let vectors = comptime!(shape.vectors());
    let units = comptime!(PLANES * PLANE);
    let blocks = comptime!(shape.blocks());
    let mut ordered = Shared::<[Vector<i32, W>]>::new_slice(comptime!(m * vectors));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(m * blocks));
    let mut squares = Shared::<[f32]>::new_slice(comptime!(m * PLANES));
    if comptime!(shape.normed) {
        #[unroll]
        for row in 0..m {
            let mut sum = f32::new(0.0);
            let mut i = UNIT_POS as usize;
            while i < vectors {
                let value = Vector::<f32, N>::cast_from(rows[row * vectors + i]);
                sum += (value * value).vector_sum();
                i += units;
            }
            let sum = lanes_sum(sum, PLANE);
            if UNIT_POS_PLANE == 0 {
                squares[row * PLANES + UNIT_POS as usize / PLANE] = sum;
            }
        }
        sync_cube();
    }
    #[unroll]
    for row in 0..m {
        let mut rms = Vector::<f32, N>::new(1.0f32);
        if comptime!(shape.normed) {
            let mut total = f32::new(0.0);
            #[unroll]
            for plane in 0..PLANES {
                total += squares[row * PLANES + plane];
            }
            rms = Vector::new(f32::sqrt(total / comptime!(shape.d_input as f32) + epsilon));
        }
        let rounds = comptime!(vectors.div_ceil(units));
        // Every unit takes part in every round, as lanes sum up together.
        for round in 0..rounds {
            let i = round * units + UNIT_POS as usize;
            let is_in = i < vectors;
            let i = min(i, vectors - 1);
            let mut value = rows[row * vectors + i];
            if comptime!(shape.normed) {
                let exact = Vector::<f32, N>::cast_from(value);
                value = scaled::<F, N>(exact / rms, gamma[i]);
            }
            let mut moved = value;
            #[unroll]
            for index in 0..WIDTH {
                moved.insert(index, value.extract(comptime!(shape.channel(index))));
            }
            let of_block = comptime!(LANES * shape.pieces());
            let sum = lanes_sum(Vector::<f32, N>::cast_from(value).vector_sum(), of_block);
            let within = i % of_block;
            let place = i - within + within % shape.pieces() * LANES + within / shape.pieces();
            if is_in {
                ordered[row * vectors + place] = Vector::reinterpret(moved);
                if within == 0 {
                    sums[row * blocks + i / of_block] = sum;
                }
            }
        }
    }
    sync_cube();
    Left::<W> {
        vectors: ordered,
        sums,
    }
}
