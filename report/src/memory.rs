//! Memory of the host.

use std::fs;

/// Bytes that programs can take, page cache that can be dropped included; `None` where the system
/// is not Linux or does not say.
pub fn available_on_host() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemAvailable` of a `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib = value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_kib() {
        let meminfo = "MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:    42 kB\n";
        assert_eq!(available(meminfo), Some(42 * 1024));
        assert_eq!(available("MemTotal: 100 kB\n"), None);
        assert_eq!(available("MemAvailable: many kB\n"), None);
    }
}
