use quest_burn::{NewestPage, QuestConfig, digest::DigestKind};

use super::page_score;

/// The pages that the heads of a group read together, ascending.
pub fn select_pages(
    group: &[Vec<f64>],
    keys: &[Vec<f64>],
    config: &QuestConfig,
    page_size: usize,
) -> Vec<usize> {
    let pages = keys.chunks(page_size).collect::<Vec<_>>();
    let budget = (config.token_budget / page_size).max(config.min_pages);
    if pages.len() <= budget {
        return (0..pages.len()).collect();
    }
    let newest = pages.len() - 1;
    let is_kept = |page: usize| {
        page < config.sink_pages || (page == newest && config.newest_page == NewestPage::Pinned)
    };
    let score = |page: usize| match is_kept(page) {
        true => f64::INFINITY,
        false => group
            .iter()
            .map(|query| page_score(DigestKind::MinMax, query, pages[page]))
            .fold(f64::NEG_INFINITY, f64::max),
    };
    let mut best = (0..pages.len())
        .map(|page| (page, score(page)))
        .collect::<Vec<_>>();
    // The sort is stable: of equal scores the lower page stays first.
    best.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut best = best[..budget]
        .iter()
        .map(|&(page, _)| page)
        .collect::<Vec<_>>();
    best.sort_unstable();
    best
}

/// Softmax attention of one query over the given tokens.
pub fn attend(
    query: &[f64],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
    tokens: &[usize],
    scale: f64,
) -> Vec<f64> {
    let scores = tokens
        .iter()
        .map(|&token| scale * dot(query, &keys[token]))
        .collect::<Vec<_>>();
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = scores
        .iter()
        .map(|score| (score - highest).exp())
        .collect::<Vec<_>>();
    let total = weights.iter().sum::<f64>();
    let mut output = vec![0.0; query.len()];
    for (&token, weight) in tokens.iter().zip(weights) {
        for (out, value) in output.iter_mut().zip(&values[token]) {
            *out += weight / total * value;
        }
    }
    output
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
