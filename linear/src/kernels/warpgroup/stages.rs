//! Stages of shared memory, which take turns, and where the rows of their tiles lie.

use cubecl::prelude::*;

use super::{ALIGNMENT, PARTS, ROW_BYTES};

/// Where the first stage lies in shared memory that begins at `begin`: a launch may ignore the alignment.
#[cube]
pub fn aligned(begin: u32) -> u32 {
    (begin + comptime!(ALIGNMENT as u32 - 1)) / comptime!(ALIGNMENT as u32)
        * comptime!(ALIGNMENT as u32)
}

/// Where a part of a row lies in a tile, in bytes: eight rows of a part are in different banks.
#[cube]
pub fn place_of_part(row: usize, part: usize) -> usize {
    row * ROW_BYTES + (part ^ (row % PARTS)) * 16
}

/// The stage after a stage.
#[cube]
pub fn next_stage(stage: u32, #[comptime] stages: usize) -> u32 {
    select(stage == comptime!(stages as u32 - 1), 0u32, stage + 1u32)
}

/// The stage before a stage.
#[cube]
pub fn stage_before(stage: u32, #[comptime] stages: usize) -> u32 {
    select(stage == 0u32, comptime!(stages as u32 - 1), stage - 1u32)
}

/// The stage that comes two before a stage.
#[cube]
pub fn two_stages_before(stage: u32, #[comptime] stages: usize) -> u32 {
    select(
        stage < 2u32,
        stage + comptime!(stages as u32 - 2),
        stage - 2u32,
    )
}
