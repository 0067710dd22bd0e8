//! Rotary position embedding.

mod config;

pub use config::{RopeConfig, RopeError, RopeScaling};

use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::tensor::{DType, FloatDType, Int, Tensor, assert_shape};

/// Rotates the channels of queries and keys by an angle that grows with their position
/// ([RoFormer](https://arxiv.org/abs/2104.09864)), so that their products depend on how far apart
/// they are.
///
/// Channel `i` is paired with channel `i + head_dim / 2`, as in Hugging Face checkpoints (and not
/// with its neighbour, as in [`burn::nn::RotaryEncoding`]).
///
/// Should be created using [RopeConfig]. Its frequencies follow from the configuration: they are
/// neither trained nor saved.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Rope {
    inv_freq: Tensor<1>,
    attention_factor: f64,
}

/// The rotations of some positions, made by [`Rope::rotations`].
#[derive(Clone, Debug)]
pub struct Rotations {
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// Both in one tensor, once a kernel has asked for it.
    #[cfg(feature = "cube")]
    table: std::sync::OnceLock<Tensor<3>>,
}

impl Rope {
    /// Rotates `x` to its positions.
    ///
    /// Queries and keys of the same positions can share the [rotations](Self::rotations).
    ///
    /// # Shapes
    ///
    /// - x: `[batch, heads, tokens, head_dim]`
    /// - positions: `[batch, tokens]`
    /// - output: `[batch, heads, tokens, head_dim]`, of x's dtype; the rotation is done in f32
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together.
    pub fn forward(&self, x: Tensor<4>, positions: Tensor<2, Int>) -> Tensor<4> {
        self.rotations(positions).apply(x)
    }

    /// The rotations of `positions` (shape `[batch, tokens]`).
    pub fn rotations(&self, positions: Tensor<2, Int>) -> Rotations {
        let (cos, sin) = self.turns(positions);
        Rotations::new(cos * self.attention_factor, sin * self.attention_factor)
    }

    /// Moves what is [rotated](Self::forward) already by some positions more.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, heads, tokens, head_dim]`
    /// - by: `[batch, tokens]`
    /// - output: `[batch, heads, tokens, head_dim]`, of x's dtype; the rotation is done in f32
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together.
    pub fn shift(&self, x: Tensor<4>, by: Tensor<2, Int>) -> Tensor<4> {
        // The attention factor of the scaling is in x already.
        let (cos, sin) = self.turns(by);
        Rotations::new(cos, sin).apply(x)
    }

    /// Cosines and sines, `[batch, 1, tokens, head_dim / 2]` each.
    fn turns(&self, positions: Tensor<2, Int>) -> (Tensor<4>, Tensor<4>) {
        let positions = positions.cast(FloatDType::F32).unsqueeze_dims::<4>(&[1, 3]);
        let angles = within_one_turn(positions * self.inv_freq.clone().unsqueeze::<4>());
        (angles.clone().cos(), angles.sin())
    }
}

impl Rotations {
    fn new(cos: Tensor<4>, sin: Tensor<4>) -> Self {
        Self {
            cos,
            sin,
            #[cfg(feature = "cube")]
            table: std::sync::OnceLock::new(),
        }
    }

    /// Cosines, then sines, `[batch, tokens, head_dim]`.
    #[cfg(feature = "cube")]
    pub(crate) fn table(&self) -> Tensor<3> {
        let table = self.table.get_or_init(|| {
            Tensor::cat(vec![self.cos.clone(), self.sin.clone()], 3).squeeze_dim(1)
        });
        table.clone()
    }

    /// Rotates `x`.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, heads, tokens, head_dim]`
    /// - output: `[batch, heads, tokens, head_dim]`, of x's dtype; the rotation is done in f32
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit together.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, tokens, half] = self.cos.dims();
        assert_shape!(x, [batch, _, tokens, 2 * half]);
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let rotated = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        Tensor::cat(rotated, 3).cast(dtype)
    }
}

/// The same angles between -pi and pi.
///
/// WGSL and Vulkan promise nothing about sines outside of this range, and the angles of a long
/// context are thousands of turns.
fn within_one_turn(angles: Tensor<4>) -> Tensor<4> {
    // A turn in three parts; the first two have so few bits that multiples of them are exact in
    // f32 up to half a million turns (Cody and Waite).
    const TURN: [f64; 3] = [
        6.25,
        17.0 / 512.0,
        std::f64::consts::TAU - 6.25 - 17.0 / 512.0,
    ];
    let turns = (angles.clone() * std::f64::consts::TAU.recip()).round();
    TURN.into_iter()
        .fold(angles, |rest, part| rest - turns.clone() * part)
}

impl ModuleDisplay for Rope {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("head_dim", &(2 * self.inv_freq.dims()[0]))
            .add("attention_factor", &self.attention_factor)
            .optional()
    }
}

#[cfg(test)]
mod tests;
