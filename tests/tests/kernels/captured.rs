//! A recorded step.

use burn::tensor::capture;
use quest_burn::{PageSharing, digest::DigestKind, kernels};

use super::append::assert_digests;
use super::attention::assert_same;
use super::bench::{
    Bench, case, device, dtypes, floats, ints, normal, relative_error, rng, tolerance,
};

/// A decode step of one layer on the device: append, select, attend.
#[test]
fn a_captured_step_replays_at_any_position() {
    let ((device, _alone), mut rng) = (device(), rng());
    let (warm_up, replays) = (4usize, 40usize);
    for dtype in dtypes(&device) {
        let capacity = 100;
        let mut bench = Bench::new(
            case((16, 64), (2, 2), &[capacity], &[2]),
            DigestKind::MeanVar,
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
            bench.pool(&vec![f32::NAN; bench.keys.len()]),
            bench.pool(&vec![f32::NAN; bench.values.len()]),
            bench.device_digests(),
            bench.ints(&[0]),
            bench.ints(&[1]),
        ));
        device.sync().unwrap();
        let mut graph = capture(&device, || {
            let (keys, values, digests, start, length) = state.take().unwrap();
            let (keys, values, digests) = kernels::append(
                keys,
                values,
                digests,
                bench.digest,
                new_keys.clone(),
                new_values.clone(),
                page_table.clone(),
                start.clone(),
                length.clone(),
            );
            let scores = kernels::page_scores(
                query.clone(),
                digests.clone(),
                bench.digest,
                page_table.clone(),
                length.clone(),
                16,
                PageSharing::KvHead,
                max_pages,
            );
            let pages = kernels::top_pages(scores, length.clone(), 16, 2, 0, 1);
            let out = kernels::paged_attention(
                query.clone(),
                keys.clone(),
                values.clone(),
                Some(pages),
                page_table.clone(),
                length.clone(),
                scale,
                0,
            );
            let best = kernels::best_attention(
                query.clone(),
                keys.clone(),
                values.clone(),
                digests.clone(),
                bench.digest,
                page_table.clone(),
                length.clone(),
                scale,
                kernels::BestPages {
                    k: 2,
                    sink_pages: 0,
                    recent_pages: 1,
                    sharing: PageSharing::KvHead,
                    n_pages_bound: max_pages,
                },
            );
            let (start, length) = (kernels::advance(start), kernels::advance(length));
            state = Some((keys, values, digests, start, length));
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
        assert_eq!(best, out, "{dtype:?}");
        let (keys, values, digests, start, _) = state.take().unwrap();
        let length = ints(start)[0] as usize;
        println!("{dtype:?}: hardware graph {hardware}, {length} tokens");
        assert!(length > replays && length <= replays + warm_up, "{length}");
        // Every value row is the same, so that it is the output whatever the pages.
        for head in 0..4 {
            let expected: Vec<f64> = new_value[head / 2 * 64..][..64]
                .iter()
                .map(|&x| x.into())
                .collect();
            let error = relative_error(&out[head * 64..][..64], &expected);
            assert!(error < tolerance(dtype), "{dtype:?}: {error:e}");
        }
        bench.keys.fill(f32::NAN);
        bench.values.fill(f32::NAN);
        for position in 0..length {
            for head in 0..2 {
                let (key, value) = (&new_key[head * 64..][..64], &new_value[head * 64..][..64]);
                bench.write(0, head, position, key, value);
            }
        }
        assert_same(&floats(keys), &bench.keys, "keys");
        assert_same(&floats(values), &bench.values, "values");
        assert_digests(&bench, &floats(digests), "digests");
    }
}
