//! Levels of vector instructions. What is generic over a [`Level`] is compiled for each of them, and
//! [`run`] chooses the highest one that the processor has.
//!
//! Weights are unpacked in plain Rust, which the compiler turns into the vectors of the level; a level
//! itself has no more than what the compiler does not find: dot products of bytes, and 16-bit floats.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::{fmt, sync::OnceLock};

pub(super) use portable::Portable;

/// Floats of a vector.
pub(super) const LANES: usize = 8;
/// Bytes of a vector.
pub(super) const BYTES: usize = 32;

/// Vectors of 8 floats and of 32 bytes.
///
/// Its functions are called within [`Work::run`] only, which is compiled with the level's instructions
/// and entered where the processor has them.
pub trait Level: Copy {
    /// 8 floats.
    type Floats: Copy;
    /// 8 sums of products.
    type Sums: Copy;

    /// LHS rows whose sums registers have room for, with four weight rows.
    const MAX_ROWS: usize;

    /// 8 zeros.
    fn zeros() -> Self::Floats;
    /// Floats as they are.
    fn floats(x: &[f32; LANES]) -> Self::Floats;
    /// The floats of a vector.
    fn to_array(x: Self::Floats) -> [f32; LANES];
    /// 16-bit floats, by their bits.
    fn halves(x: &[u16; LANES]) -> Self::Floats;
    /// A 16-bit float, by its bits.
    fn half(x: u16) -> f32;
    /// `a * b + sum`.
    fn multiply_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// The sum of all 8.
    fn sum(x: Self::Floats) -> f32;

    /// `start` plus the products of bytes, four neighbouring ones in a sum. `WIDE` where weights are
    /// more than 7 bits.
    fn dot<const WIDE: bool>(
        weights: &[u8; BYTES],
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums;
    /// `sums * scale + sum`, with a scale for the first half and one for the second.
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats;
}

/// Work that is compiled for every level.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it. Must be `#[inline(always)]`, as must be what it calls: that is how it gets the level's
    /// instructions.
    fn run<L: Level>(self) -> Self::Output;
}

/// The levels by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LevelName {
    /// What every processor has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl LevelName {
    /// Those that this processor has, the highest one last.
    pub fn available() -> Vec<Self> {
        [
            Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
        ]
        .into_iter()
        .filter(|level| level.is_available())
        .collect()
    }

    /// The highest one that this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<LevelName> = OnceLock::new();
        let highest = || Self::available().into_iter().max();
        *BEST.get_or_init(|| highest().unwrap_or(Self::Portable))
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::is_available(),
        }
    }

    /// Does work with this level's instructions.
    ///
    /// # Panics
    ///
    /// When the processor does not have them.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        assert!(
            self <= Self::best(),
            "vector instructions: expected those of this processor, {} at most, found {self}",
            Self::best()
        );
        match self {
            Self::Portable => work.run::<Portable>(),
            // SAFETY: the processor has the level's instructions, which was asserted above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::run(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::run(work) },
        }
    }
}

impl fmt::Display for LevelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512",
        })
    }
}
