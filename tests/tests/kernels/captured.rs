//! A recorded step.

use burn::tensor::capture;
use quest_burn::{
    PageSharing,
    cache::{KvPool, KvStorage, Sequences},
    digest::DigestKind,
    kernels::{self, ReadPages, Scoring, TopPages},
    ops::PageSelection,
};
use quest_burn_tests::arrays::tolerance_of;

use super::append::{assert_digests, assert_rows};
use super::{
    bench::Bench,
    cases::{case, device, dtypes, rng},
    numbers::{floats, ints, normal},
    reference::relative_error,
};

/// A decode step of one layer on the device: append, select, attend.
#[test]
fn a_captured_step_replays_at_any_position() {
    let ((device, _alone), mut rng) = (device(), rng());
    let (warm_up, replays) = (4usize, 40usize);
    let dtypes = dtypes(&device).into_iter();
    let forms = dtypes.flat_map(|dtype| KvStorage::ALL.map(|rows| (dtype, rows)));
    for (dtype, storage) in forms.filter(|&(_, rows)| kernels::takes_rows(&device, rows)) {
        let capacity = 100;
        let mut bench = Bench::stored(
            case((16, 64), (2, 2), &[capacity], &[2]),
            DigestKind::MeanVar,
            storage,
            dtype,
            &device,
            &mut rng,
        );
        bench.digests.fill(f32::NAN);
        let new_key = normal(2 * 64, dtype, &mut rng);
        let new_value = normal(2 * 64, dtype, &mut rng);
        let row = |data: &[f32]| bench.float(data, [1, 2, 1, 64]);
        let (new_keys, new_values) = (row(&new_key), row(&new_value));
        let query = bench.device_query();
        let page_table = bench.page_table();
        let max_pages = bench.max_pages();
        let scale = bench.scale();
        let mut state = Some((
            KvPool {
                digests: bench.digests_of(bench.device_digests()),
                ..bench.unwritten_pool()
            },
            kernels::DecodeState {
                tokens: bench.ints(&[0]),
                starts: bench.ints(&[0]),
                lengths: bench.ints(&[1]),
                history: bench.ints(&[0]).reshape([1, 1]),
            },
        ));
        let (logits, active) = (bench.float(&[0.0; 2], [1, 2]), bench.ints(&[1]));
        device.sync().unwrap();
        let mut graph = capture(&device, || {
            let (pool, position) = state.take().unwrap();
            let sequences = Sequences {
                page_table: page_table.clone(),
                starts: position.starts.clone(),
                lengths: position.lengths.clone(),
            };
            let pool = kernels::append(pool, new_keys.clone(), new_values.clone(), &sequences);
            let selection = PageSelection {
                k: 2,
                sink_pages: 0,
                recent_pages: 1,
            };
            let scoring = Scoring {
                page_size: 16,
                rule: PageSharing::KvHead.into(),
                n_scores: max_pages,
            };
            let top = TopPages {
                page_size: 16,
                selection,
                coming_pages: 0,
            };
            let scores = kernels::page_scores(query.clone(), &pool.digests, &sequences, scoring);
            let ids = kernels::top_pages(scores, sequences.lengths.clone(), top);
            let out = kernels::paged_attention(
                query.clone(),
                pool.keys.clone(),
                pool.values.clone(),
                ReadPages::Listed(ids),
                &sequences,
                scale,
            );
            let pages = kernels::TopKPages {
                selection,
                rule: PageSharing::KvHead.into(),
                n_pages_bound: max_pages,
            };
            let best = kernels::top_k_attention(query.clone(), &pool, &sequences, pages, scale);
            drop(sequences);
            let position = kernels::next_tokens(logits.clone(), active.clone(), position);
            state = Some((pool, position));
            (out, best)
        });
        device.sync().unwrap();
        for _ in 0..replays {
            // SAFETY: the state that the graph writes is alive and not touched in between.
            unsafe { graph.replay() };
        }
        device.sync().unwrap();
        let hardware = graph.is_hardware();
        let (out, best) = graph.output().clone();
        let (out, best) = (floats(out), floats(best));
        drop(graph);
        assert_eq!(best, out, "{dtype:?} {storage}");
        let (pool, position) = state.take().unwrap();
        let length = ints(position.starts)[0] as usize;
        println!("{dtype:?} {storage}: hardware graph {hardware}, {length} tokens");
        assert!(length > replays && length <= replays + warm_up, "{length}");
        // Every value row is the same, so that it is the output whatever the pages.
        for head in 0..4 {
            let expected = bench.kept(&new_value[head / 2 * 64..][..64]);
            let expected = expected.into_iter().map(f64::from).collect::<Vec<_>>();
            let error = relative_error(&out[head * 64..][..64], &expected);
            assert!(error < tolerance_of(dtype), "{dtype:?}: {error:e}");
        }
        bench.keys.fill(f32::NAN);
        bench.values.fill(f32::NAN);
        for position in 0..length {
            for head in 0..2 {
                let (key, value) = (&new_key[head * 64..][..64], &new_value[head * 64..][..64]);
                bench.write(0, head, position, key, value);
            }
        }
        assert_rows(&bench, pool.keys.widened(), &bench.keys, "keys");
        assert_rows(&bench, pool.values.widened(), &bench.values, "values");
        assert_digests(&bench, &floats(pool.digests.rows), "digests");
    }
}
