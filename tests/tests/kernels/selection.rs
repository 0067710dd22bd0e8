//! The choice of the best pages.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::{
    kernels::{self, TopPages},
    ops::PageSelection,
};

use super::{
    cases::{device, rng},
    numbers::{ints, normal, poison},
};

/// The selection as its contract says, on the host.
fn select(scores: &[f32], k: usize, sinks: usize, recent: usize) -> Vec<i32> {
    let n = scores.len();
    let kept = |page: usize| page < sinks || page + recent >= n;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| {
        (kept(b).cmp(&kept(a)))
            .then(scores[b].partial_cmp(&scores[a]).unwrap())
            .then(a.cmp(&b))
    });
    order.truncate(k);
    order.sort_unstable();
    let mut ids: Vec<i32> = order.into_iter().map(|page| page as i32).collect();
    ids.resize(k, -1);
    ids
}

/// The same for several steps: the last `coming` of the `k` are the pages that are taken next.
fn select_ahead(scores: &[f32], k: usize, coming: usize, sinks: usize, recent: usize) -> Vec<i32> {
    let n = scores.len();
    if coming == 0 {
        return select(scores, k, sinks, recent);
    }
    let (mut ids, next) = match n <= k {
        true => (Vec::new(), 0),
        false => (select(scores, k - coming, sinks, recent), n),
    };
    ids.extend((next..).take(k - ids.len()).map(|page| page as i32));
    ids
}

/// Runs the selection on rows of scores, with one length per row, and checks all of it.
fn check_selection(
    rows: &[Vec<f32>],
    lengths: &[usize],
    k: usize,
    sinks: usize,
    recent: usize,
    device: &Device,
) {
    for coming_pages in [0, 1, 3] {
        if sinks + recent + coming_pages <= k && coming_pages < k {
            check_lists(rows, lengths, (k, coming_pages), (sinks, recent), device);
        }
    }
}

/// Lists of `k` pages of which so many are to come, with first and last pages that are always in.
fn check_lists(
    rows: &[Vec<f32>],
    lengths: &[usize],
    (k, coming_pages): (usize, usize),
    (sinks, recent): (usize, usize),
    device: &Device,
) {
    let page_size = 16;
    let n_scores = rows[0].len();
    let scores: Vec<f32> = rows
        .iter()
        .zip(lengths)
        .flat_map(|(row, &length)| {
            let n = length.div_ceil(page_size);
            (0..n_scores).map(move |page| if page < n { row[page] } else { f32::NAN })
        })
        .collect();
    let scores = TensorData::new(scores, [rows.len(), 1, n_scores]);
    let counts: Vec<i32> = lengths.iter().map(|&n| n as i32).collect();
    let counts = TensorData::new(counts, [rows.len()]);
    poison(rows.len() * k, device);
    let scores = Tensor::<3>::from_data(scores, (device, DType::F32));
    let counts = Tensor::<1, Int>::from_data(counts, (device, DType::I32));
    let top = TopPages {
        page_size,
        selection: PageSelection {
            k,
            sink_pages: sinks,
            recent_pages: recent,
        },
        coming_pages,
    };
    let ids = ints(kernels::top_pages(scores.clone(), counts.clone(), top));
    // Every second sequence keeps its list.
    let due = (0..rows.len())
        .map(|row| (row % 2) as i32)
        .collect::<Vec<_>>();
    let due = Tensor::<1, Int>::from_data(TensorData::new(due, [rows.len()]), (device, DType::I32));
    let kept = Tensor::<1, Int>::full([rows.len() * k], -7, (device, DType::I32));
    let kept = kept.reshape([rows.len(), 1, k]);
    let renewed = ints(kernels::renew_top_pages(scores, counts, due, kept, top));
    for (row, &length) in lengths.iter().enumerate() {
        let n = length.div_ceil(page_size);
        let list = row * k..(row + 1) * k;
        let case = format!(
            "{n} of {n_scores} pages, k {k}, {coming_pages} to come, first {sinks}, last {recent}, row {row}"
        );
        let expected = select_ahead(&rows[row][..n], k, coming_pages, sinks, recent);
        assert_eq!(ids[list.clone()], expected, "{case}");
        match row % 2 {
            0 => assert_eq!(renewed[list], vec![-7; k], "{case}"),
            _ => assert_eq!(renewed[list], expected, "{case}"),
        }
    }
}

#[test]
fn top_pages_are_exact_ascending_and_ties_go_to_the_lower_page() {
    let ((device, _alone), mut rng) = (device(), rng());
    for n in [1, 2, 31, 33, 64, 255, 1000, 2048, 5000] {
        let normal = normal(n, DType::F32, &mut rng);
        let rows = vec![
            normal.clone(),
            normal.iter().map(|x| (x * 2.0).round()).collect(),
            vec![-3.5; n],
            (0..n)
                .map(|i| if i % 2 == 0 { 0.0 } else { -0.0 })
                .collect(),
            normal.iter().map(|x| x.powi(15) * 1e20).collect(),
            (0..n).map(|i| 1000.0 + i as f32 * 1e-3).collect(),
            (0..n)
                .map(|i| f32::from_bits(0x3f80_0000 + (i % 7) as u32))
                .collect(),
        ];
        for k in [1, 2, 17, n / 2, n - 1, n, n + 3] {
            for (sinks, recent) in [(0, 0), (0, 1), (1, 1), (3, 0), (4, 1), (2, 9)] {
                if k == 0 || sinks + recent > k {
                    continue;
                }
                let lengths = vec![n * 16 - 3; rows.len()];
                check_selection(&rows, &lengths, k, sinks, recent, &device);
            }
        }
    }
}

#[test]
fn top_pages_of_ragged_sequences_leave_scores_past_their_pages_unread() {
    let ((device, _alone), mut rng) = (device(), rng());
    let n = 700;
    let lengths = [0, 1, 16, 17, 100, 16 * n, 16 * 64, 16 * 65, 5000];
    let rows: Vec<Vec<f32>> = lengths
        .iter()
        .map(|_| normal(n, DType::F32, &mut rng))
        .collect();
    for k in [1, 4, 64, 65, 700] {
        check_selection(&rows, &lengths, k, 0, 1, &device);
    }
}

#[test]
fn top_pages_of_a_million_tokens() {
    let ((device, _alone), mut rng) = (device(), rng());
    for n in [16_384, 65_536] {
        let normal = normal(n, DType::F32, &mut rng);
        let ties: Vec<f32> = normal.iter().map(|x| x.round()).collect();
        for k in [1, 128, 4097, n - 1, n] {
            let rows = [normal.clone(), ties.clone()];
            check_selection(&rows, &[n * 16, n * 16 - 15], k, 0, 1, &device);
            if k > 3 {
                // The second sequence ends within a stretch, and others lie past its end.
                check_selection(&rows, &[n * 16, 5000 * 16], k, 3, 1, &device);
            }
        }
    }
}

/// Counts of pages with equal scores, and of chosen pages, are beyond 16 bits.
#[test]
fn top_pages_of_more_pages_than_16_bits_count() {
    let ((device, _alone), mut rng) = (device(), rng());
    for n in [65_537, 150_000] {
        let normal = normal(n, DType::F32, &mut rng);
        let ties: Vec<f32> = normal.iter().map(|x| x.round()).collect();
        let rows = [normal, ties, vec![0.5; n]];
        let lengths = [n * 16, n * 16 - 15, n * 16];
        for k in [1, 128, n / 3, n - 1, n] {
            check_selection(&rows, &lengths, k, 0, 1, &device);
        }
    }
}
