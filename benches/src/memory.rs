//! How many bytes a benchmark may take on its device.

use crate::Target;

/// What is taken where neither an option nor the device says how much there is.
const UNKNOWN: u64 = 8 << 30;
/// Of what the device has: the rest is for intermediate results and other programs.
const SHARE: f64 = 0.85;

/// Bytes that caches and weights may take: the limit asked for, or a share of what the device
/// has. Says on stderr where the device does not tell.
pub(crate) fn limit(target: &Target, asked: Option<u64>) -> u64 {
    if let Some(asked) = asked {
        return asked;
    }
    match target.memory_bytes() {
        Some(bytes) => (bytes as f64 * SHARE) as u64,
        None => {
            eprintln!(
                "memory: {} does not say how much it has; up to 8 GiB are taken \
                 (`--memory-limit` for another number)",
                target.name()
            );
            UNKNOWN
        }
    }
}
