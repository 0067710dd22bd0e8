//! The operations of a decode step as [CubeCL](https://github.com/tracel-ai/cubecl) kernels, for
//! CUDA, ROCm, Vulkan, Metal and WebGPU.
//!
//! Kernels read lengths and the page table from device memory, and their grids are sized for the
//! capacity of the tensors, so that a captured step replays at any position. Sums are kept in f32
//! whatever the dtype of the cache.
//!
//! [`supported`] says where they run; [`crate::ops`] calls them there.

#![allow(
    clippy::assign_op_pattern,
    clippy::collapsible_if,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::too_many_arguments,
    reason = "cube functions know the plain operators, and kernels take what they read"
)]

pub(crate) mod advance;
pub(crate) mod append;
pub(crate) mod best_attention;
mod check;
pub(crate) mod decode_state;
mod device;
pub(crate) mod int8;
mod launch;
pub mod linear;
pub(crate) mod matmul;
mod matrix_instruction;
pub(crate) mod page_scores;
pub(crate) mod paged_attention;
pub(crate) mod prefill_attention;
pub(crate) mod rms_norm;
pub(crate) mod rotate_append;
mod row;
pub(crate) mod top_pages;

pub use self::{
    advance::advance,
    append::append,
    best_attention::{BestPages, best_attention},
    decode_state::{DecodeState, assign, next_tokens},
    device::{supported, supports},
    int8::{
        int8_append, int8_appends, int8_best_attention, int8_page_scores, int8_rotate_append,
        int8_rotates, quantize_digests,
    },
    matmul::matmul_rows,
    page_scores::page_scores,
    paged_attention::paged_attention,
    prefill_attention::{prefill_attention, prefills},
    rms_norm::rms_norm,
    rotate_append::{rotate_append, rotates},
    top_pages::top_pages,
};
