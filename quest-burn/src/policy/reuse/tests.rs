use burn::tensor::{DType, Device};

use super::*;
use crate::{
    cache::PagedKvCacheConfig,
    policy::{
        ObservedPolicy, Read,
        fixture::{Weighted, observed},
    },
};

fn quest(budget_pages: usize) -> QuestConfig {
    QuestConfig::new()
        .with_token_budget(8 * budget_pages)
        .with_sink_pages(0)
        .with_dense_layers(0)
}

fn reuse(budget_pages: usize, options: &str) -> ObservedPolicy {
    observed(ReusePolicy::new(quest(budget_pages), options.parse().unwrap(), 8).unwrap())
}

fn prompt() -> Weighted {
    let weight = |token: usize| [4.0, 1.0, 3.0, 2.0][token / 8];
    let prompt = (0..32).map(|token| [weight(token)]).collect::<Vec<_>>();
    let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
    Weighted::new(1).prompt(&prompt)
}

fn pages(read: Read) -> Vec<usize> {
    match read {
        Read::Pages(lists) => lists[0].clone(),
        other => panic!("a list of pages was expected, found {other:?}"),
    }
}

#[test]
fn a_choice_serves_several_steps() {
    let policy = reuse(3, "every=3");
    let mut layer = prompt();
    // The first query likes page 0 best, the later ones page 1. A page of the budget is still to come.
    let mut read = |query: f32| pages(layer.decode(&policy, &[1.0], &[query]).0);
    let reads = [1.0, -1.0, -1.0, -1.0, 1.0].map(&mut read);
    assert_eq!(reads[..3], [[0, 4]; 3]);
    assert_eq!(reads[3..], [[1, 4]; 2]);
}

#[test]
fn a_page_that_is_taken_is_read_and_with_the_second_pages_are_chosen_anew() {
    let policy = reuse(3, "every=100");
    let mut layer = prompt();
    let mut read = |query: f32| pages(layer.decode(&policy, &[1.0], &[query]).0);
    let reads = (0..25).map(|step| read(if step < 16 { 1.0 } else { -1.0 }));
    let reads = reads.collect::<Vec<_>>();
    assert_eq!(reads[..8], [[0, 4]; 8]);
    assert_eq!(reads[8..16], [[0, 4, 5]; 8]);
    assert_eq!(reads[16..24], [[1, 6]; 8]);
    assert_eq!(reads[24], [1, 6, 7]);
}

#[test]
fn a_budget_without_room_for_a_page_to_come_chooses_with_each_page() {
    let policy = reuse(1, "every=100");
    let mut layer = prompt();
    let reads = (0..17).map(|_| pages(layer.decode(&policy, &[1.0], &[1.0]).0));
    let reads = reads.collect::<Vec<_>>();
    assert_eq!(reads[..8], [[4]; 8]);
    assert_eq!(reads[8..16], [[5]; 8]);
    assert_eq!(reads[16], [6]);
}

#[test]
fn a_sequence_that_outgrows_the_budget_chooses() {
    let policy = ReusePolicy::new(quest(3), "every=9".parse().unwrap(), 8).unwrap();
    let serves = |made_at, length| policy.choice_serves(made_at, length, 8);
    assert!(serves(10, 10) && serves(10, 18), "read whole");
    assert!(!serves(10, 19), "for 9 tokens");
    assert!(!serves(20, 19), "taken back");
    assert!(
        serves(17, 24) && !serves(17, 25),
        "a page more than the budget holds"
    );
    assert!(serves(31, 39));
    assert!(serves(32, 40), "one page is to come");
}

#[test]
fn adjacent_layers_read_what_the_first_of_them_chooses() {
    let config = PagedKvCacheConfig::for_tokens(5, 1, 1, 8, 1, 64);
    let mut cache = config.init(&Device::default(), DType::F32).unwrap();
    let quest = quest(1).with_newest_page(crate::NewestPage::Competes);
    let quest = quest.with_dense_layers(1);
    let policy = ReusePolicy::new(quest, "layers=2".parse().unwrap(), 8);
    let policy = observed(policy.unwrap());
    let step = cache.prefill(&[23]).unwrap();
    let rows = |n: usize, layer: usize| {
        // In layer l, page l % 3 has the largest keys.
        let key = |token: usize| f32::from(u8::from(token / 8 == layer % 3));
        let keys = (24 - n..24).map(key).collect::<Vec<_>>();
        let keys = burn::tensor::TensorData::new(keys, [1, 1, n, 1]);
        Tensor::<4>::from_data(keys, &Device::default())
    };
    for layer in 0..5 {
        let rows = rows(24, layer).slice_dim(2, 0..23);
        ops::append(cache.layer_mut(layer), rows.clone(), rows, &step);
    }
    let step = cache.decode().unwrap();
    for layer in 0..5 {
        ops::append(
            cache.layer_mut(layer),
            rows(1, layer),
            rows(1, layer),
            &step,
        );
    }
    for layer in 0..5 {
        let query = Tensor::<3>::ones([1, 1, 1], &Device::default());
        policy.attention(query, cache.layer_mut(layer), &step, 1.0);
    }
    let reads = policy.observations().take().into_iter().map(|o| o.read);
    let one = |page: usize| Read::Pages(vec![vec![page]]);
    // Layers 1 and 3 choose, 2 and 4 follow.
    let expected = [Read::All, one(1), one(1), one(0), one(0)];
    assert_eq!(reads.collect::<Vec<_>>(), expected);
}

#[test]
fn with_a_choice_for_every_step_and_layer_it_is_quest() {
    let policies = [reuse(3, "every=1"), observed(quest(3).init().unwrap())];
    let [reuse, quest] = policies.map(|policy| {
        let mut layer = prompt();
        let queries = (0..20).map(|step| [1.0, -0.5, -1.0][step % 3]);
        let steps = queries.map(|query| layer.observe(&policy, &[2.5], &[query]));
        steps.collect::<Vec<_>>()
    });
    assert_eq!(reuse, quest);
}

#[test]
fn truncation_forgets_a_choice() {
    let policy = reuse(3, "every=100");
    let mut layer = prompt();
    layer.decode(&policy, &[1.0], &[1.0]);
    layer.cache.truncate(0, 32).unwrap();
    let (read, _) = layer.decode(&policy, &[1.0], &[-1.0]);
    assert_eq!(pages(read), [1, 4]);
}
