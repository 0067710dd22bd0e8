//! What a recorded step keeps on the device: tokens chosen, positions moved on, values assigned.

use quest_burn::{
    kernels::{self, DecodeState},
    ops,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{floats, ints, random, read, targets, tensor};

#[test]
fn the_next_token_has_the_highest_logit_and_the_state_moves_on() {
    let mut rng = StdRng::seed_from_u64(4);
    for (device, dtype) in targets() {
        for vocab_size in [1, 5, 197, 1000, 32000] {
            let batch = 6;
            let (logits, _) = random([batch, vocab_size], dtype, &device, &mut rng);
            // Few distinct values, so that the highest occurs more than once.
            let mut rows = floats(&logits.clone().mul_scalar(2.0).round());
            let n = vocab_size;
            rows[n..2 * n].fill(f64::NEG_INFINITY);
            rows[2 * n..3 * n].fill(-7.0);
            rows[3 * n + n / 2] = f64::NAN;
            rows[4 * n + n - 1] = f64::INFINITY;
            let values = rows.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let logits = tensor(&values, [batch, n], dtype, &device);
            let highest = (0..n)
                .rev()
                .max_by(|&a, &b| rows[a].partial_cmp(&rows[b]).unwrap());
            let chosen = ops::most_probable(logits.clone()).expect("kernels choose");
            let state = kernels::next_tokens(
                logits,
                ints(&[1, 1, 1, 1, 1, 0], &device),
                DecodeState {
                    tokens: ints(&[40; 6], &device),
                    starts: ints(&[5, 3, 8, 0, 1, 2], &device),
                    lengths: ints(&[6, 4, 9, 1, 2, 3], &device),
                    history: ints(&[-9; 24], &device).reshape([6, 4]),
                },
            );
            let highest = highest.unwrap() as i32;
            assert_eq!(read(chosen)[..5], [highest, -1, 0, -1, -1], "{n}");
            assert_eq!(read(state.tokens), [highest, 0, 0, 0, 0, 40], "{n}");
            assert_eq!(read(state.starts), [6, 4, 9, 1, 2, 2]);
            assert_eq!(read(state.lengths), [7, 5, 10, 2, 3, 3]);
            let mut history = [-9; 24];
            history[1] = highest;
            history[4 + 3] = -1;
            history[8] = 0;
            history[12] = -1;
            history[16 + 1] = -1;
            assert_eq!(read(state.history), history);
        }
    }
}

#[test]
fn values_are_assigned_in_place() {
    for (device, _) in targets() {
        let values = (0..70).collect::<Vec<_>>();
        let target = kernels::assign(ints(&[7; 70], &device), ints(&values, &device));
        assert_eq!(read(target), values);
    }
}
