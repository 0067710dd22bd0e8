//! The state of a captured decode step on the device: what a replay reads and moves on.

mod assign;
mod next_tokens;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor, assert_shape},
};

pub(crate) use assign::launch_assign;
pub(crate) use next_tokens::launch_next_tokens;

use super::{check::check_dtype, extension::QuestOps, operands::State};

/// What a captured decode step carries from one replay to the next.
#[derive(Debug)]
pub struct DecodeState {
    /// The newest token of each sequence, which is not in the cache yet, `[batch]`.
    pub tokens: Tensor<1, Int>,
    /// Tokens in the cache before the step, `[batch]`.
    pub starts: Tensor<1, Int>,
    /// Tokens in the cache after the step, `[batch]`.
    pub lengths: Tensor<1, Int>,
    /// Tokens that steps have chosen, `[batch, n]`: the one after `p` tokens is at `p % n`.
    pub history: Tensor<2, Int>,
}

/// Ends a decode step: chooses the token of the highest logit (the lower one of equals) and moves
/// on to the next position, all in place.
///
/// Where a sequence has no answer, because a logit is NaN or infinite or all are negative infinity,
/// the history gets -1 and the next token is 0. A sequence that is not active stays as it is.
///
/// # Shapes
///
/// - logits: `[batch, vocab_size]`
/// - active: `[batch]`, 0 or 1
/// - all integers in i32
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or the state cannot be written in place (with the
/// `fusion` feature at the next synchronisation).
pub fn next_tokens(logits: Tensor<2>, active: Tensor<1, Int>, state: DecodeState) -> DecodeState {
    let DecodeState {
        tokens,
        starts,
        lengths,
        history,
    } = state;
    let [batch, n] = history.dims();
    let [_, vocab_size] = logits.dims();
    assert_shape!(logits, [batch, vocab_size]);
    for (what, counts) in [
        ("active sequences", &active),
        ("tokens", &tokens),
        ("starts", &starts),
        ("lengths", &lengths),
    ] {
        assert_shape!(counts, [batch]);
        check_dtype(what, counts.dtype(), DType::I32);
    }
    check_dtype("history", history.dtype(), DType::I32);
    assert!(
        n > 0,
        "history: expected room for at least 1 token, found 0"
    );
    assert!(
        vocab_size > 0,
        "logits: expected at least one token, found 0"
    );
    let state = Dispatch::next_tokens(
        logits.into_dispatch(),
        active.into_dispatch(),
        State {
            tokens: tokens.into_dispatch(),
            starts: starts.into_dispatch(),
            lengths: lengths.into_dispatch(),
            history: history.into_dispatch(),
        },
    );
    DecodeState {
        tokens: Tensor::from_dispatch(state.tokens),
        starts: Tensor::from_dispatch(state.starts),
        lengths: Tensor::from_dispatch(state.lengths),
        history: Tensor::from_dispatch(state.history),
    }
}

/// Writes `values` over `target`, in place: how the host speaks to a captured step.
///
/// # Shapes
///
/// - target, values, output: `[n]` in i32
///
/// # Panics
///
/// When shapes or dtypes differ, or the target cannot be written in place.
pub fn assign(target: Tensor<1, Int>, values: Tensor<1, Int>) -> Tensor<1, Int> {
    let [n] = target.dims();
    assert_shape!(values, [n]);
    check_dtype("target", target.dtype(), DType::I32);
    check_dtype("values", values.dtype(), DType::I32);
    Tensor::from_dispatch(Dispatch::assign(
        target.into_dispatch(),
        values.into_dispatch(),
    ))
}
