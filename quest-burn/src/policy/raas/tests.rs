use super::*;
use crate::policy::{
    ObservedPolicy, Read,
    fixture::{Weighted, assert_close, observed},
};

fn raas(budget_pages: usize, options: &str) -> ObservedPolicy {
    let quest = QuestConfig::new()
        .with_token_budget(8 * budget_pages)
        .with_sink_pages(0)
        .with_dense_layers(0);
    let options = match options {
        "" => RaasOptions::default(),
        options => options.parse().unwrap(),
    };
    observed(RaasPolicy::new(quest, options, 8).unwrap())
}

fn pages(lists: &[&[usize]]) -> Read {
    Read::Pages(lists.iter().map(|list| list.to_vec()).collect())
}

/// Decodes `tokens` tokens of one weight; what the last of them reads, and its output.
fn decode(
    layer: &mut Weighted,
    policy: &ObservedPolicy,
    tokens: usize,
    weight: f32,
    query: f32,
) -> (Read, Vec<f32>) {
    let outputs = (0..tokens).map(|_| layer.decode(policy, &[weight], &[query]));
    outputs.last().unwrap()
}

#[test]
fn the_page_that_was_used_longest_ago_leaves() {
    let policy = raas(4, "");
    let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
    decode(&mut layer, &policy, 8, 4.0, 1.0);
    decode(&mut layer, &policy, 8, 0.5, 1.0);
    let (read, output) = decode(&mut layer, &policy, 8, 2.0, 1.0);
    assert_eq!(read, Read::All);
    assert_close(&output, &[914.0 / 60.0]);
    // Pages 1, 2, 3 were used at 32, 24, 32: page 2 leaves, although page 1 is older.
    let (read, output) = decode(&mut layer, &policy, 1, 4.0, 1.0);
    assert_eq!(read, pages(&[&[0, 1, 3, 4]]));
    assert_close(&output, &[964.0 / 60.0]);
    // The other way round, pages 0 and 3 are the best; page 1 is not used again.
    let (_, output) = decode(&mut layer, &policy, 7, 4.0, -1.0);
    assert_close(&output, &[232.0 / 16.0]);
    let (read, output) = decode(&mut layer, &policy, 1, 1.0, 1.0);
    assert_eq!(read, pages(&[&[0, 3, 4, 5]]));
    assert_close(&output, &[1644.0 / 57.0]);
}

#[test]
fn a_prompt_that_competes_leaves_like_decoded_pages() {
    let policy = raas(4, "prompt=competes");
    let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
    for (weight, tokens) in [(4.0, 8), (0.5, 8), (2.0, 8)] {
        decode(&mut layer, &policy, tokens, weight, 1.0);
    }
    // Pages 0 and 2 were used last at 24.
    let (read, _) = decode(&mut layer, &policy, 1, 4.0, 1.0);
    assert_eq!(read, pages(&[&[1, 2, 3, 4]]));
}

#[test]
fn the_first_query_ranks_a_prompt_that_competes_and_does_not_fit() {
    let weight = |token: usize| [1.0, 9.0, 1.0, 2.0, 5.0][token / 8];
    let prompt = (0..40).map(|token| [weight(token)]).collect::<Vec<_>>();
    let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
    let policy = raas(3, "prompt=competes");
    let mut layer = Weighted::new(1).prompt(&prompt);
    let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
    assert_eq!(read, pages(&[&[1, 4, 5]]));
    // Pages do not come back, however much a later query would like them.
    let (read, _) = decode(&mut layer, &policy, 1, 1.0, -1.0);
    assert_eq!(read, pages(&[&[1, 4, 5]]));
}

#[test]
fn a_pinned_prompt_beyond_the_budget_is_read_beside_the_newest_page() {
    let policy = raas(3, "");
    let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 40]);
    let (read, _) = decode(&mut layer, &policy, 8, 1.0, 1.0);
    assert_eq!(read, pages(&[&[0, 1, 2, 3, 4, 5]]));
    let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
    assert_eq!(read, pages(&[&[0, 1, 2, 3, 4, 6]]));
}

#[test]
fn heads_hold_pages_of_their_own() {
    let policy = raas(2, "prompt=competes");
    let weights = |token: usize| [[8.0, 1.0], [1.0, 8.0]][token / 8];
    let prompt = (0..16).map(weights).collect::<Vec<_>>();
    let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
    let mut layer = Weighted::new(2).prompt(&prompt);
    let (read, _) = layer.decode(&policy, &[1.0, 1.0], &[1.0, 1.0]);
    assert_eq!(read, pages(&[&[0, 2], &[1, 2]]));
}

#[test]
fn of_a_prompt_as_with_quest_each_query_reads_the_best_pages() {
    let weight = |token: usize| [2.0, 8.0, 4.0, 1.0][token / 8];
    let prompt = (0..32).map(|token| [weight(token)]).collect::<Vec<_>>();
    let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
    let policy = raas(4, "prompt=quest");
    let mut layer = Weighted::new(1).prompt(&prompt);
    // One decoded page leaves room for three of the prompt.
    let (read, _) = decode(&mut layer, &policy, 8, 3.0, 1.0);
    assert_eq!(read, pages(&[&[0, 1, 2, 4]]));
    let (read, _) = decode(&mut layer, &policy, 8, 2.0, -1.0);
    assert_eq!(read, pages(&[&[0, 3, 4, 5]]));
    // Both decoded pages are there; page 5 was the better one for the last query.
    let (read, _) = decode(&mut layer, &policy, 1, 3.0, 1.0);
    assert_eq!(read, pages(&[&[1, 2, 5, 6]]));
}

/// Decodes tokens whose weights and queries change, and frees what the policy has done with. What was
/// read, the outputs, and the most pages in use.
fn long_answer(
    layer: &mut Weighted,
    policy: &RaasPolicy,
    n_kv_heads: usize,
) -> (Vec<Read>, Vec<f32>, usize) {
    let (mut reads, mut outputs, mut most) = (Vec::new(), Vec::new(), 0);
    for token in 0..40usize {
        let held = |layer: &LayerCache, sequence| policy.pages_held(layer, sequence);
        layer.cache.free_all_but(held).unwrap();
        let weight = |head: usize| [4.0, 0.5, 2.0, 8.0, 1.0][(token / 8 + 2 * head) % 5];
        let weights = (0..n_kv_heads).map(weight).collect::<Vec<_>>();
        let query = (0..n_kv_heads).map(|head| [1.0, -1.0][(token / 5 + head) % 2]);
        let query = query.collect::<Vec<_>>();
        let (read, output) = layer.decode(&observed(policy.clone()), &weights, &query);
        reads.push(read);
        outputs.extend(output);
        most = most.max(layer.cache.pages_in_use()[0]);
    }
    (reads, outputs, most)
}

#[test]
fn freed_pages_bound_the_memory_of_a_long_answer_and_change_nothing() {
    for (n_kv_heads, prompt) in [(1, "pinned"), (1, "competes"), (1, "quest"), (2, "pinned")] {
        let answer = |free: &str| {
            let quest = QuestConfig::new()
                .with_token_budget(8 * 3)
                .with_sink_pages(0)
                .with_dense_layers(0);
            let options = format!("prompt={prompt},free={free}").parse().unwrap();
            let policy = RaasPolicy::new(quest, options, 8).unwrap();
            let weights = [[1.0f32; 2]; 16];
            let weights = weights.iter().map(|w| &w[..n_kv_heads]).collect::<Vec<_>>();
            let mut layer = Weighted::new(n_kv_heads).prompt(&weights);
            let answer = long_answer(&mut layer, &policy, n_kv_heads);
            (answer, layer)
        };
        let ((kept_reads, kept_outputs, all), _) = answer("false");
        let ((reads, outputs, most), mut layer) = answer("true");
        assert_eq!(reads, kept_reads, "{prompt}");
        assert_eq!(outputs, kept_outputs, "{prompt}: to the bit");
        assert_eq!(all, 7);
        // The newest page is there before another one leaves.
        let bound = 2 + 3 * n_kv_heads;
        assert!(most <= bound.min(6), "{prompt}, {n_kv_heads}: {most} pages");
        // Another pass would read what is not there.
        let error = layer.cache.decode().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("KV cache: expected decode steps by the policy")
        );
        assert!(layer.cache.prefill(&[1]).is_err());
        assert!(layer.cache.free_all_but(|_, _| None).is_err());
        assert!(layer.cache.truncate(0, 55).is_err());
        layer.cache.release(0).unwrap();
        assert_eq!(layer.cache.free_pages(), 8);
        layer.cache.prefill(&[64]).unwrap();
    }
}

#[test]
fn truncation_makes_a_prompt_of_what_is_left() {
    let policy = raas(2, "");
    let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
    let (read, _) = decode(&mut layer, &policy, 17, 1.0, 1.0);
    assert_eq!(read, pages(&[&[0, 3]]));
    layer.cache.truncate(0, 24).unwrap();
    let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
    assert_eq!(read, pages(&[&[0, 1, 2, 3]]));
}
