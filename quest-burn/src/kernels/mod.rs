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

pub(crate) mod append;
mod args;
mod bindings;
mod check;
pub(crate) mod decode_state;
pub(crate) mod extension;
pub(crate) mod int8;
mod launch;
pub(crate) mod operands;
pub(crate) mod page_scores;
pub(crate) mod paged_attention;
pub(crate) mod prefill_attention;
pub(crate) mod rotate_append;
#[cfg(feature = "fusion")]
mod shapes;
pub(crate) mod top_k_attention;
pub(crate) mod top_pages;

pub use quest_burn_linear::kernels::device::{supported, supports};
use quest_burn_linear::kernels::{cooperative_matrix, device, matrix_instruction, rms_norm, row};

pub(crate) use self::launch::check_held_alone;
pub use self::{
    append::append,
    bindings::takes_rows,
    decode_state::{DecodeState, assign, next_tokens},
    int8::quantize_digests,
    page_scores::{Scoring, page_scores},
    paged_attention::{ReadPages, few_token_attention, paged_attention},
    prefill_attention::{prefill_attention, prefills},
    rotate_append::{rotate_append, rotates},
    top_k_attention::{TopKPages, top_k_attention},
    top_pages::{TopPages, renew_top_pages, top_pages},
};
