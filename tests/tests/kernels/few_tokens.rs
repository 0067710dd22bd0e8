//! Attention of a few query tokens at a time.

use std::cell::Cell;

use burn::tensor::DType;
use quest_burn::kernels;
use quest_burn_tests::arrays::tolerance_of;

use super::{
    cases::for_each,
    numbers::{floats, normal, poison},
    reference::relative_error,
};

/// Query tokens at a time, in turn: with most groups more than fit into one side of a matrix instruction, and fewer.
const TOKENS: [usize; 3] = [8, 3, 1];
/// The same where matrix instructions play no part.
const TOKENS_IN_F32: [usize; 2] = [2, 1];

#[test]
fn a_few_tokens_attend_up_to_their_own_and_padding_to_none() {
    let turn = Cell::new(0);
    for_each(|bench, rng| {
        let (batch, n_heads, d) = (bench.batch(), bench.n_heads(), bench.case.head_dim);
        // A driver on the CPU takes minutes to compile cubes of many rows or of narrow ones.
        if bench.dtype == DType::F32 && (d < 64 || bench.case.group > 8) {
            return;
        }
        let tokens = match bench.dtype {
            DType::F32 => TOKENS_IN_F32[turn.get() % TOKENS_IN_F32.len()],
            _ => TOKENS[turn.get() % TOKENS.len()],
        };
        turn.set(turn.get() + 1);
        let lengths = bench.case.lengths.clone();
        // The first sequence gains all of the tokens, the second one fewer, and so on.
        let new = |sequence: usize| tokens.saturating_sub(sequence).min(lengths[sequence]);
        let starts = (0..batch).map(|sequence| lengths[sequence] - new(sequence));
        let starts = starts.collect::<Vec<_>>();
        let query = normal(batch * n_heads * tokens * d, bench.dtype, rng);
        poison(query.len(), &bench.device);
        let found = floats(kernels::few_token_attention(
            bench.float(&query, [batch, n_heads, tokens, d]),
            bench.pool(&bench.keys),
            bench.pool(&bench.values),
            bench.max_pages(),
            &bench.sequences_of(&starts, &lengths),
            bench.scale(),
        ));
        let rows = query.chunks_exact(d).zip(found.chunks_exact(d));
        for (row, (query, found)) in rows.enumerate() {
            let (sequence, head, token) = (
                row / (n_heads * tokens),
                row / tokens % n_heads,
                row % tokens,
            );
            let name = format!("{}: token {token} of {tokens}, row {row}", bench.name());
            if token >= new(sequence) {
                assert!(found.iter().all(|&x| x == 0.0), "{name}: {found:?}");
                continue;
            }
            let seen = 0..starts[sequence] + token + 1;
            let expected = bench.attention_to(query, sequence, head, seen);
            let error = relative_error(found, &expected);
            assert!(error < tolerance_of(bench.dtype), "{name}: {error:e}");
        }
    });
}
