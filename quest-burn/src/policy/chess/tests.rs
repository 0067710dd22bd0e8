use burn::tensor::Device;

use super::*;
use crate::{
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{ObservedPolicy, Read, fixture::observed},
};

/// Keys of the pages: page 7 has the highest score, but its chunk has not.
const KEYS: [[f32; 2]; 8] = [
    [1., 0.],
    [0., 1.],
    [0.5, 0.5],
    [0., 0.],
    [0., 2.],
    [2., 0.],
    [-1., 0.],
    [3., -1.],
];

fn chess(budget_pages: usize, options: &str) -> ObservedPolicy {
    let quest = QuestConfig::new()
        .with_token_budget(8 * budget_pages)
        .with_sink_pages(0)
        .with_dense_layers(0);
    let options = format!("chunk=2,grid=2,grids=0.5,chunks=0.5,{options}");
    observed(ChessPolicy::new(quest, options.parse().unwrap(), 8).unwrap())
}

/// A cache with those pages, of one KV head with two channels.
fn prompt() -> PagedKvCache {
    let config = PagedKvCacheConfig::for_tokens(1, 1, 2, 8, 1, 256);
    let mut cache = config.init(&Device::default(), DType::F32).unwrap();
    let step = cache.prefill(&[64]).unwrap();
    append(&mut cache, &step, |token| KEYS[token / 8]);
    cache
}

fn append(cache: &mut PagedKvCache, step: &Step, key: impl Fn(usize) -> [f32; 2]) {
    let tokens = step.starts()[0]..step.lengths()[0];
    let shape = [1, 1, tokens.len(), 2];
    let rows = TensorData::new(tokens.flat_map(key).collect::<Vec<_>>(), shape);
    let rows = Tensor::<4>::from_data(rows, &Device::default());
    ops::append(cache.layer_mut(0), rows.clone(), rows, step);
}

fn decode(cache: &mut PagedKvCache, policy: &ObservedPolicy, key: [f32; 2]) -> Vec<usize> {
    let step = cache.decode().unwrap();
    append(cache, &step, |_| key);
    // The query takes no part.
    let query = Tensor::<3>::ones([1, 1, 2], &Device::default());
    policy.attention(query, cache.layer_mut(0), &step, 1.0);
    match policy.observations().take().remove(0).read {
        Read::Pages(mut lists) => lists.remove(0),
        other => panic!("a list of pages was expected, found {other:?}"),
    }
}

#[test]
fn the_best_page_of_the_best_chunk_of_the_best_grid_is_read() {
    let mut cache = prompt();
    let policy = chess(3, "anchor=1,pages=0.5");
    assert_eq!(decode(&mut cache, &policy, [2., 1.]), [0, 5, 8]);
}

#[test]
fn more_chunks_stay_where_the_budget_has_room_for_their_pages() {
    let mut cache = prompt();
    let policy = chess(6, "anchor=1");
    // Pages 5 and 4 of the best chunk, then 7 and 6 of the other one of the grid.
    assert_eq!(decode(&mut cache, &policy, [2., 1.]), [0, 4, 5, 6, 7, 8]);
}

#[test]
fn the_anchor_is_the_mean_of_the_newest_tokens() {
    let mut cache = prompt();
    // Of seven tokens of page 7 and the new one: (-2.375, 1.625) / 8, away from page 7.
    let policy = chess(3, "anchor=8");
    let far = decode(&mut cache, &policy, [-40., 20.]);
    let mut cache = prompt();
    let policy = chess(3, "anchor=1");
    assert_eq!(far, decode(&mut cache, &policy, [-19. / 8., 13. / 8.]));
    let mut cache = prompt();
    let near = decode(&mut cache, &chess(3, "anchor=8"), [2., 1.]);
    assert_ne!(far, near);
}

#[test]
fn pages_that_were_opened_since_are_read_and_selections_come_as_often_as_asked() {
    let read = |reselect: &str| {
        let mut cache = prompt();
        let policy = chess(4, &format!("anchor=1,reselect={reselect}"));
        let mut reads = vec![decode(&mut cache, &policy, [2., 1.])];
        for _ in 0..24 {
            reads.push(decode(&mut cache, &policy, [0., 1.]));
        }
        reads
    };
    let once = read("once");
    assert_eq!(once[0], [0, 4, 5, 8]);
    // Of page 4 and 5, page 5 was the better one.
    assert_eq!(
        (&once[8], &once[16]),
        (&vec![0, 5, 8, 9], &vec![0, 8, 9, 10])
    );
    assert_eq!(once[24], [0, 9, 10, 11]);
    // Two pages later the anchor is (0, 1). The last grid, of pages 8 and 9, and the first stay,
    // and of their chunks those of pages 8 and 9 and of 0 and 1; pages 1, 8 and 9 are equal.
    let every = read("2");
    assert_eq!(
        (&every[8], &every[16]),
        (&vec![0, 5, 8, 9], &vec![0, 1, 8, 10])
    );
}

#[test]
fn a_page_of_uncertain_tokens_selects_anew() {
    let read = |entropies: [f32; 2]| {
        let mut cache = prompt();
        let policy = chess(4, "anchor=1,reselect=uncertain,entropy=1.5,variance=0.25");
        assert!(policy.hears_entropy());
        let mut reads = Vec::new();
        for token in 0..17 {
            let key = if token == 0 { [2., 1.] } else { [0., 1.] };
            reads.push(decode(&mut cache, &policy, key));
            cache.note_entropy(0, entropies[token % 2]).unwrap();
        }
        [reads.remove(16), reads.remove(8), reads.remove(0)]
    };
    // As selected once.
    let kept = [vec![0, 8, 9, 10], vec![0, 5, 8, 9], vec![0, 4, 5, 8]];
    assert_eq!(read([1., 1.]), kept);
    // When page 8 was full, and page 9: as selected after each page.
    for entropies in [[2., 2.], [0., 2.]] {
        let found = read(entropies);
        assert_eq!(found[2], kept[2]);
        assert_eq!(found[1], [0, 1, 8, 9], "{entropies:?}");
        assert_ne!(found[0], kept[0], "{entropies:?}");
    }
    // Nothing was noted of a prompt, and nothing is remembered of what is truncated.
    let mut cache = prompt();
    let policy = chess(4, "anchor=1,reselect=uncertain,entropy=0,variance=0");
    decode(&mut cache, &policy, [2., 1.]);
    cache.note_entropy(0, 9.0).unwrap();
    let step = cache.decode().unwrap();
    assert_eq!(step.entropies(0, 0..65), [9.0]);
    cache.truncate(0, 64).unwrap();
    let step = cache.decode().unwrap();
    assert!(step.entropies(0, 0..65).is_empty());
    assert!(cache.note_entropy(1, 0.0).is_err());
}

#[test]
fn truncation_forgets_the_selection() {
    let mut cache = prompt();
    let policy = chess(3, "anchor=1,reselect=once");
    assert_eq!(decode(&mut cache, &policy, [2., 1.]), [0, 5, 8]);
    cache.truncate(0, 64).unwrap();
    assert_eq!(decode(&mut cache, &policy, [-2., -1.]), [0, 3, 8]);
}

#[test]
fn options_are_read_and_refused() {
    let options = "reselect=once,grids=0.25".parse::<ChessOptions>().unwrap();
    assert_eq!(options.reselect, Reselect::Once);
    assert_eq!(options.to_string(), "reselect=once,grids=0.25");
    let error = "reselect=0".parse::<ChessOptions>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "reselect: expected once, uncertain, or a number of pages from 1 on, found `0`"
    );
    let quest = QuestConfig::new().with_token_budget(32);
    let error = ChessPolicy::new(quest, "sinks=2".parse().unwrap(), 16).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("token budget of chess: expected at least 48")
    );
}
