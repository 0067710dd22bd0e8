//! Sequences that come and go.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor};
use quest_burn::{
    cache::{AssignedPages, KvStorage, PagedKvCache, Phase},
    decode::BatchGraph,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    generation::batch_graph,
    model::{CausalLm, LanguageModel},
};
use quest_burn_tests::seed;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::{PAGE_SIZE, VOCAB_SIZE, argmax, best_of_rows, floats, ids, prompt},
    PAGES, Recorded, cache, for_each,
};

/// Tokens that some sequences have in common: two full pages and a part of the third.
const COMMON: usize = 2 * PAGE_SIZE + 3;

/// A sequence whose pages the test counts.
#[derive(Clone, Debug)]
struct Sequence {
    pages: Vec<u32>,
    length: usize,
    newest: u32,
    /// Tokens until it leaves.
    left: usize,
}

impl Sequence {
    fn gains(&self, new_tokens: usize) -> AssignedPages<'_> {
        AssignedPages {
            pages: &self.pages,
            length: self.length,
            new_tokens,
        }
    }

    /// Takes a page where its next tokens need one.
    fn make_room(&mut self, new_tokens: usize, free: &mut BTreeSet<u32>) {
        while self.pages.len() * PAGE_SIZE < self.length + new_tokens {
            self.pages.push(free.pop_first().expect("there are enough"));
        }
    }
}

/// Feeds a prompt's tokens to a sequence and gives the one that follows.
fn prefill(
    model: &CausalLm,
    cache: &mut PagedKvCache,
    sequence: &Sequence,
    tokens: &[u32],
    device: &Device,
) -> u32 {
    let step = cache.assigned_step(Phase::Prefill, &[sequence.gains(tokens.len())]);
    let input = ids(&[tokens.to_vec()], device);
    let hidden = model.hidden(input, cache, &step.unwrap(), &DensePolicy);
    let last = hidden.slice_dim(1, tokens.len() - 1..tokens.len());
    best_of_rows(model.logits(last).squeeze_dim(1))[0]
}

/// Logits after a step of sequences that is not recorded.
fn plain_step(
    model: &CausalLm,
    policy: &dyn PagePolicy,
    cache: &mut PagedKvCache,
    sequences: &[Sequence],
    device: &Device,
) -> Tensor<2> {
    let assigned = sequences.iter().map(|s| s.gains(1)).collect::<Vec<_>>();
    let step = cache.assigned_step(Phase::Decode, &assigned).unwrap();
    let tokens = sequences.iter().map(|s| vec![s.newest]);
    let input = ids(&tokens.collect::<Vec<_>>(), device);
    let hidden = model.hidden(input, cache, &step, policy);
    model.logits(hidden).squeeze_dim(1)
}

/// The recordings of a test, by buckets of batch sizes, with room for pages that doubles.
struct Buckets<'a> {
    model: &'a CausalLm,
    policy: &'a dyn PagePolicy,
    graphs: Vec<BatchGraph<'a>>,
    recordings: usize,
}

impl<'a> Buckets<'a> {
    fn step(&mut self, cache: &mut PagedKvCache, sequences: &[Sequence]) -> &BatchGraph<'a> {
        let n = sequences.len().next_power_of_two();
        let pages = sequences.iter().map(|s| s.length / PAGE_SIZE + 1);
        let pages = pages.max().unwrap();
        let is_it = |graph: &BatchGraph<'_>| graph.sequences() == n;
        let place = self.graphs.iter().position(is_it);
        let graph = place.map(|place| self.graphs.remove(place));
        let graph = match graph.filter(|graph| graph.max_pages() >= pages) {
            Some(graph) => graph,
            // One with less room is gone by now.
            None => {
                self.recordings += 1;
                let model: &dyn LanguageModel = self.model;
                let graph = batch_graph(model, self.policy, cache, n, pages.next_power_of_two());
                graph.expect("the device records")
            }
        };
        self.graphs.push(graph);
        let graph = self.graphs.last_mut().unwrap();
        let assigned = sequences.iter().map(|s| s.gains(1)).collect::<Vec<_>>();
        let tokens = sequences.iter().map(|s| s.newest).collect::<Vec<_>>();
        graph.step(cache, &assigned, &tokens).unwrap();
        graph
    }
}

/// The same rows written, in every page, and the same numbers in them but for rounding.
#[track_caller]
fn assert_same_pages(found: &PagedKvCache, expected: &PagedKvCache, case: &str) {
    for layer in 0..expected.n_layers() {
        let [found, expected] = [found, expected].map(|cache| {
            let layer = cache.layer(layer);
            [layer.keys(), layer.values(), layer.digests()].map(|pool| floats(pool.clone()))
        });
        for (pool, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let is_same = found.is_nan() && expected.is_nan()
                    || (found - expected).abs() <= 1e-3 * (1.0 + expected.abs());
                assert!(
                    is_same,
                    "{case}: layer {layer}, pool {pool}, {i}: {found}, expected {expected}"
                );
            }
        }
    }
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, case: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let is_close = (found - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(is_close, "{case}: {found}, {expected}");
    }
}

#[test]
fn sequences_that_come_and_go_have_the_tokens_of_plain_steps() {
    for_each(|case| {
        let Recorded {
            name: case,
            device,
            model,
            policy,
            stored,
        } = case;
        // A channel in the middle of two steps may be rounded to either, and is another one then.
        let (_, rows) = stored;
        let is_rounded = rows == KvStorage::Int8;
        let tolerance = if is_rounded { 0.05 } else { 1e-4 };
        let mut rng = StdRng::seed_from_u64(seed());
        let [mut plain, mut recorded] = [(); 2].map(|()| cache(stored, device));
        let mut free = (0..PAGES as u32).collect::<BTreeSet<_>>();
        let mut common = Sequence {
            pages: Vec::new(),
            length: 0,
            newest: 0,
            left: 0,
        };
        common.make_room(COMMON, &mut free);
        for cache in [&mut plain, &mut recorded] {
            prefill(model, cache, &common, &prompt(9, COMMON), device);
        }
        let mut buckets = Buckets {
            model,
            policy,
            graphs: Vec::new(),
            recordings: 0,
        };
        let mut running = Vec::<Sequence>::new();
        let (mut sizes, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        for round in 0..30 {
            let is_welcome = running.len() < 5 && rng.random_bool(0.4);
            if running.is_empty() || is_welcome {
                let mut new = Sequence {
                    pages: Vec::new(),
                    length: 0,
                    newest: 0,
                    left: rng.random_range(3..25),
                };
                if rng.random_bool(0.5) {
                    // It goes on in the middle of a page that others read.
                    let own = free.pop_first().unwrap();
                    let from = common.pages[2];
                    for cache in [&mut plain, &mut recorded] {
                        cache.copy_page(from, own, COMMON % PAGE_SIZE).unwrap();
                    }
                    new.pages = vec![common.pages[0], common.pages[1], own];
                    new.length = COMMON;
                }
                let ids = prompt(round, rng.random_range(1..20));
                new.make_room(ids.len(), &mut free);
                let next = [&mut plain, &mut recorded]
                    .map(|cache| prefill(model, cache, &new, &ids, device));
                assert!(is_rounded || next[0] == next[1], "{case}, round {round}");
                new.length += ids.len();
                new.newest = next[0];
                let place = rng.random_range(0..=running.len());
                running.insert(place, new);
            }
            for sequence in &mut running {
                sequence.make_room(1, &mut free);
            }
            let expected = plain_step(model, policy, &mut plain, &running, device);
            let expected = floats(expected);
            let graph = buckets.step(&mut recorded, &running);
            let chosen = graph.most_probable().unwrap();
            let logits = floats(graph.logits().unwrap());
            let case = format!("{case}, round {round}");
            assert_eq!(logits.len(), expected.len(), "{case}");
            assert_close(&logits, &expected, tolerance, &case);
            sizes.insert(running.len());
            let found = chosen.into_iter().zip(logits.chunks(VOCAB_SIZE));
            let rows = expected.chunks(VOCAB_SIZE);
            for ((sequence, (chosen, found)), row) in running.iter_mut().zip(found).zip(rows) {
                assert_eq!(chosen, Some(argmax(found)), "{case}");
                let is_same = chosen == Some(argmax(row));
                assert!(is_rounded || is_same, "{case}");
                sequence.newest = argmax(row);
                sequence.length += 1;
                sequence.left -= 1;
                tokens.insert(sequence.newest);
            }
            running.retain(|sequence| {
                let own = sequence.pages.iter();
                let own = own.filter(|page| !common.pages.contains(page));
                if sequence.left == 0 {
                    free.extend(own);
                }
                sequence.left > 0
            });
        }
        assert!(sizes.len() > 3 && tokens.len() > 20, "{sizes:?} {tokens:?}");
        // One for each bucket, and some anew for more pages.
        assert!((3..10).contains(&buckets.recordings), "{case}");
        if !is_rounded {
            assert_same_pages(&recorded, &plain, &case);
        }
    });
}
