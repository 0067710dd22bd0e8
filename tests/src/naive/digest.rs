use quest_burn::digest::DigestKind;

use super::attention::dot;

/// The rows of the digest of a page with these keys, and the number for all channels in a row of its
/// own.
///
/// # Panics
///
/// When the kind is not known here.
pub fn digest(kind: DigestKind, page: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |of: &dyn Fn(&[f64]) -> f64| {
        let channels = 0..page[0].len();
        let channel = |i: usize| page.iter().map(|key| key[i]).collect::<Vec<_>>();
        channels.map(|i| of(&channel(i))).collect::<Vec<_>>()
    };
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let variance = |x: &[f64]| {
        let squares = x.iter().map(|key| (key - mean(x)).powi(2));
        squares.sum::<f64>() / x.len() as f64
    };
    match kind {
        DigestKind::MinMax => vec![
            row(&|x| x.iter().copied().fold(f64::INFINITY, f64::min)),
            row(&|x| x.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ],
        DigestKind::MeanVar => vec![row(&mean), row(&|x| variance(x).sqrt())],
        DigestKind::MeanScalar => vec![row(&mean), vec![mean(&row(&variance)).sqrt()]],
        DigestKind::Mean => vec![row(&mean)],
        other => panic!("the naive model knows no digest {other}"),
    }
}

/// The score of a page with these keys for a query.
///
/// # Panics
///
/// When the kind is not known here.
pub fn page_score(kind: DigestKind, query: &[f64], page: &[Vec<f64>]) -> f64 {
    digest_score(kind, query, &digest(kind, page).concat())
}

/// The score of a page with this digest, row after row.
///
/// # Panics
///
/// When the kind is not known here.
pub fn digest_score(kind: DigestKind, query: &[f64], digest: &[f64]) -> f64 {
    let deviations = match kind {
        DigestKind::MeanVar | DigestKind::MeanScalar => 2.0,
        _ => 1.0,
    };
    scaled_digest_score(kind, deviations, query, digest)
}

/// The score of a page with this digest, so many deviations above the mean.
///
/// # Panics
///
/// When the kind is not known here.
pub fn scaled_digest_score(
    kind: DigestKind,
    deviations: f64,
    query: &[f64],
    digest: &[f64],
) -> f64 {
    let (first, behind) = digest.split_at(query.len());
    match kind {
        DigestKind::MinMax => {
            let bounds = query.iter().zip(first.iter().zip(behind));
            bounds.map(|(q, (low, high))| (q * low).max(q * high)).sum()
        }
        DigestKind::MeanVar => {
            let squares = query.iter().zip(behind).map(|(q, std)| (q * std).powi(2));
            dot(query, first) + deviations * squares.sum::<f64>().sqrt()
        }
        DigestKind::MeanScalar => {
            dot(query, first) + deviations * dot(query, query).sqrt() * behind[0]
        }
        DigestKind::Mean => dot(query, first),
        other => panic!("the naive model knows no digest {other}"),
    }
}
