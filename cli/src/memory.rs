//! Whether a cache fits into memory, before it is allocated.

use anyhow::bail;
use indicatif::BinaryBytes;

/// Refuses a KV cache that the machine has no memory for.
///
/// Systems that do not say how much there is are trusted to have enough.
pub fn check(cache_bytes: u64, tokens: usize) -> anyhow::Result<()> {
    match available_bytes() {
        Some(available) if cache_bytes > available => bail!(
            "memory: expected room for a KV cache of {} for {tokens} tokens, found {} available",
            BinaryBytes(cache_bytes),
            BinaryBytes(available),
        ),
        _ => Ok(()),
    }
}

/// Bytes of memory that programs can take, where Linux says so.
fn available_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse_available(&meminfo)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:       24000 kB\nMemAvailable:    1500 kB\n";
        assert_eq!(parse_available(meminfo), Some(1500 * 1024));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_cache_beyond_any_memory_is_refused() {
        assert!(check(1, 1).is_ok());
        if available_bytes().is_some() {
            let error = check(u64::MAX, 7).unwrap_err().to_string();
            assert!(
                error.starts_with("memory: expected room for a KV cache"),
                "{error}"
            );
        }
    }
}
