use quest_burn::cache::{DigestStorage, Int8Digests};

use super::{Operation, grid::Shape};

/// Bytes that an operation must read and write, if every byte goes once through the memory.
///
/// What one operation hands to the next (scores, page lists) counts for each of the two, and not
/// for the three together.
pub(super) fn bytes(shape: &Shape, operation: Operation, budget: usize) -> u64 {
    // One row of each KV head of a sequence.
    let row = shape.heads.kv * shape.kv_cache.bytes_per_row(shape.head_dim, shape.dtype);
    // A new one, as it comes.
    let new_row = shape.heads.kv * shape.head_dim * shape.dtype.size();
    let query = shape.heads.query * shape.head_dim * shape.dtype.size();
    // Of one page after the other, for each KV head of a sequence.
    let packed = |pages| shape.heads.kv * Int8Digests::bytes(shape.digest, pages, shape.head_dim);
    let digest = shape.heads.kv * shape.digest.shape(shape.head_dim).iter().product::<usize>();
    let digest = digest * shape.dtype.size();
    let of_sequence = |length: usize| {
        let n_pages = length.div_ceil(shape.page_size);
        let scores = shape.heads.kv * n_pages * size_of::<f32>();
        let k = (budget / shape.page_size).min(n_pages);
        let list = shape.heads.kv * k * size_of::<i32>();
        let (digests, packed_digest) = match shape.digests {
            DigestStorage::Full => (n_pages * digest, 0),
            DigestStorage::Int8 => (packed(n_pages), packed(1)),
        };
        // Keys of the newest page.
        let held = (length - 1) % shape.page_size;
        let listed = (k * shape.page_size).min(length) * 2 * row;
        match operation {
            // The new key and value are read and written, and the digest is written, after it was read
            // where keys are folded in; a packed one is written. Others are made of the keys of the page.
            Operation::Append => {
                let folded = match shape.digest.is_bound() {
                    true => 2 * digest,
                    false => digest + held * row,
                };
                2 * new_row + 2 * row + folded + packed_digest
            }
            Operation::PageScores => query + digests + scores,
            Operation::TopPages => scores + list,
            Operation::PagedAttention => list + 2 * query + listed,
            Operation::ThreeOperations | Operation::TopKAttention => 2 * query + digests + listed,
            Operation::DenseAttention => 2 * query + length * 2 * row,
        }
    };
    let bytes = shape.lengths().into_iter().map(of_sequence).sum::<usize>();
    bytes as u64
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use quest_burn::{cache::KvStorage, digest::DigestKind};

    use super::*;
    use crate::parse::Heads;

    /// 2 sequences of 64 tokens in 8 pages, 2 KV heads of 4 channels in f16.
    const SHAPE: Shape = Shape {
        batch: 2,
        heads: Heads { query: 6, kv: 2 },
        head_dim: 4,
        page_size: 8,
        context: 64,
        shortest: 64,
        dtype: DType::F16,
        digest: DigestKind::MinMax,
        digests: DigestStorage::Full,
        kv_cache: KvStorage::Full,
    };

    #[test]
    fn bytes_are_those_counted_by_hand() {
        // A row: 2 * 2 * 4 * 2 = 32 bytes. The queries: 2 * 6 * 4 * 2 = 96.
        let of = |operation| bytes(&SHAPE, operation, 16);
        assert_eq!(of(Operation::Append), 256);
        // 8 digests of 2 rows, 2 * 2 * 8 scores of 4 bytes.
        assert_eq!(of(Operation::PageScores), 96 + 512 + 128);
        // 2 pages in each of 4 lists, 4 bytes each.
        assert_eq!(of(Operation::TopPages), 128 + 32);
        // 16 tokens of a key and a value row.
        assert_eq!(of(Operation::PagedAttention), 32 + 192 + 1024);
        assert_eq!(of(Operation::ThreeOperations), 192 + 512 + 1024);
        assert_eq!(of(Operation::TopKAttention), of(Operation::ThreeOperations));
        assert_eq!(of(Operation::DenseAttention), 192 + 64 * 64);
    }

    #[test]
    fn shorter_sequences_have_fewer_bytes() {
        let shape = Shape {
            batch: 3,
            shortest: 16,
            ..SHAPE
        };
        assert_eq!(shape.lengths(), [64, 32, 16]);
        // Of 112 tokens a key and a value row of 2 heads, and 3 queries twice.
        let of = |operation| bytes(&shape, operation, 32);
        assert_eq!(of(Operation::DenseAttention), 3 * 96 + 112 * 32);
        // Digests of 14 pages; 32, 32 and 16 tokens.
        let digests = 14 * 2 * 16;
        assert_eq!(of(Operation::TopKAttention), 3 * 96 + digests + 80 * 32);
    }

    #[test]
    fn a_budget_beyond_the_context_reads_the_context() {
        let shape = Shape {
            context: 60,
            shortest: 60,
            ..SHAPE
        };
        assert_eq!(
            bytes(&shape, Operation::TopKAttention, 1000),
            192 + 512 + 60 * 64
        );
    }

    #[test]
    fn packed_digests_are_a_byte_per_channel_and_a_scale_for_each_32() {
        let shape = Shape {
            head_dim: 48,
            digests: DigestStorage::Int8,
            ..SHAPE
        };
        let of = |operation| bytes(&shape, operation, 16);
        // 4 heads of 2 rows of 48 bytes and 2 scales. A row: 384 bytes. The queries: 1152.
        let digest = 4 * (96 + 8);
        assert_eq!(of(Operation::Append), 8 * 384 + digest);
        assert_eq!(of(Operation::PageScores), 1152 + 8 * digest + 128);
        let listed = 16 * 2 * 384;
        assert_eq!(of(Operation::TopKAttention), 2304 + 8 * digest + listed);
        assert_eq!(of(Operation::TopPages), 128 + 32);
    }

    #[test]
    fn rows_in_8_bits_are_a_byte_per_channel_and_a_scale() {
        let shape = Shape {
            kv_cache: KvStorage::Int8,
            ..SHAPE
        };
        // A row of 4 KV heads: 4 * (4 + 4) bytes, and 32 as it comes.
        let row = 4 * (4 + 4);
        let of = |operation| bytes(&shape, operation, 16);
        assert_eq!(of(Operation::DenseAttention), 192 + 64 * 2 * row);
        assert_eq!(of(Operation::PagedAttention), 32 + 192 + 16 * 2 * row);
        assert_eq!(of(Operation::Append), 2 * 32 + 2 * row + 128);
    }

    #[test]
    fn one_row_is_half_of_two_and_a_number_for_all_channels_takes_16_bytes() {
        let scores = |digest| bytes(&Shape { digest, ..SHAPE }, Operation::PageScores, 16);
        // 8 digests of 4 heads: 2 rows, 2 rows, a row and 8 numbers, a row.
        assert_eq!(scores(DigestKind::MeanVar), 96 + 8 * 4 * 16 + 128);
        assert_eq!(scores(DigestKind::MeanScalar), 96 + 8 * 4 * 24 + 128);
        assert_eq!(scores(DigestKind::Mean), 96 + 8 * 4 * 8 + 128);
    }

    #[test]
    fn floors_of_the_target_table() {
        // At 4.32 TB/s: 15.5, 39, 3.9 and 9.7 us; dense 124 us.
        let floor = |kv, context, operation| {
            let shape = Shape {
                batch: 1,
                heads: Heads { query: 32, kv },
                head_dim: 128,
                page_size: 16,
                context,
                shortest: context,
                dtype: DType::F16,
                digest: DigestKind::MinMax,
                digests: DigestStorage::Full,
                kv_cache: KvStorage::Full,
            };
            bytes(&shape, operation, 2048) as f64 / 4.32e6
        };
        for (kv, context, expected) in [
            (32, 32768, 15.5),
            (32, 131072, 39.0),
            (8, 32768, 3.9),
            (8, 131072, 9.7),
        ] {
            let found = floor(kv, context, Operation::TopKAttention);
            assert!((found - expected).abs() < 0.2, "{found} {expected}");
        }
        assert!((floor(32, 32768, Operation::DenseAttention) - 124.0).abs() < 1.0);
    }
}
