//! What is not listed is NaN: whoever reads it gives NaN.

use burn::tensor::{Tensor, TensorData};
use quest_burn::{
    PageSharing,
    cache::LayerCache,
    policy::{ObservedPolicy, PagePolicy, PolicyKind, Read},
};
use quest_burn_tests::{
    arrays::{rows, values},
    session::{Session, SessionShape, observed, tokens_read},
};

use super::{PAGE_SIZE, config, for_each_policy, shape};

/// The layer with NaN in the rows of some tokens, `(sequence, kv head, token)`.
fn poisoned(
    session: &Session,
    poison_keys: bool,
    is_poisoned: impl Fn(usize, usize, usize) -> bool,
) -> LayerCache {
    let layer = session.cache.layer(0);
    let poison = |pool: &Tensor<4>| {
        let [_, heads, page_size, head_dim] = pool.dims();
        let mut rows = values(pool);
        for (sequence, pages) in session.cache.pages().iter().enumerate() {
            for token in 0..session.cache.lengths()[sequence] {
                let page = pages[token / page_size] as usize;
                for head in (0..heads).filter(|&head| is_poisoned(sequence, head, token)) {
                    let row = (page * heads + head) * page_size + token % page_size;
                    rows[row * head_dim..][..head_dim].fill(f32::NAN);
                }
            }
        }
        Tensor::from_data(TensorData::new(rows, pool.dims()), &pool.device())
    };
    let keys = match poison_keys {
        true => poison(layer.keys()),
        false => layer.keys().clone(),
    };
    let mut poisoned = LayerCache::from_parts(
        0,
        keys,
        poison(layer.values()),
        layer.digest(),
        layer.digests().clone(),
    );
    *poisoned.states_mut() = layer.states().clone();
    poisoned
}

#[test]
fn what_is_not_listed_is_not_read_and_what_is_listed_is() {
    for_each_policy(|kind, device, context| {
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let mut config = config(kind, 2 * PAGE_SIZE);
            config.quest.sharing = sharing;
            for steps_before in [0, 3] {
                let context = format!("{context}, {sharing:?}, step {steps_before}");
                let policy = observed(&config, PAGE_SIZE);
                let mut session = Session::new(&shape(), &device.device, 4);
                for _ in 0..steps_before {
                    let decoded = session.decode(&[true; 4]);
                    session.attend(&decoded, &policy);
                }
                // True scores need every key, of the oracle always and of the others when they
                // rank a prompt, and so do mean keys of pages; no value is needed for them.
                let evicts = matches!(kind, PolicyKind::H2o | PolicyKind::Tova);
                let compares = matches!(kind, PolicyKind::Oracle(_) | PolicyKind::Chess(_));
                let ranks = compares || (evicts && steps_before == 0);
                assert_reads_what_it_lists(&mut session, &policy, !ranks, &context);
            }
        }
    });
}

fn assert_reads_what_it_lists(
    session: &mut Session,
    policy: &ObservedPolicy,
    poison_keys: bool,
    context: &str,
) {
    let SessionShape {
        n_heads,
        n_kv_heads,
        ..
    } = session.shape;
    let decoded = session.decode(&[true; 4]);
    let scale = session.scale();
    let attend = |mut layer: LayerCache| {
        let query = decoded.queries[0].clone();
        let output = policy.attention(query, &mut layer, &decoded.step, scale);
        (rows(&output), policy.observations().take())
    };
    let (expected, observations) = attend(poisoned(session, false, |_, _, _| false));
    let lists = observations
        .iter()
        .map(|o| {
            (0..n_kv_heads)
                .map(|head| tokens_read(o, head, n_kv_heads))
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();

    let is_listed = |s: usize, head: usize, token: usize| lists[s][head].contains(&token);
    let layer = poisoned(session, poison_keys, |s, head, token| {
        !is_listed(s, head, token)
    });
    let (found, _) = attend(layer);
    assert!(
        expected.iter().flatten().all(|v| v.is_finite()),
        "{context}"
    );
    assert_eq!(found, expected, "{context}: something else was read");

    // One page of a sequence after the other.
    for (sequence, lists) in lists.iter().enumerate() {
        for page in 0..session.cache.pages()[sequence].len() {
            let in_page = |token: usize| token / PAGE_SIZE == page;
            let layer = poisoned(session, false, |s, _, token| {
                s == sequence && in_page(token)
            });
            let (found, _) = attend(layer);
            for (row, values) in found.iter().enumerate() {
                let (s, head) = (row / n_heads, row % n_heads);
                let list = match &observations[sequence].read {
                    Read::All => None,
                    Read::Pages(lists) | Read::Tokens(lists) => {
                        Some(&lists[head * lists.len() / n_heads])
                    }
                };
                let is_read = match (&observations[sequence].read, list) {
                    (Read::Pages(_), Some(list)) => list.contains(&page),
                    (_, Some(list)) => list.iter().any(|&token| in_page(token)),
                    (_, None) => true,
                };
                let is_read = s == sequence && is_read;
                assert_eq!(
                    values.iter().any(|v| v.is_nan()),
                    is_read,
                    "{context}: page {page} of sequence {sequence}, head {head}, {lists:?}"
                );
            }
        }
    }
}
