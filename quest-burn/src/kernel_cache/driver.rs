//! What compiled kernels and tuning results depend on beside CubeCL's own keys.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

/// The name of the database for this version of the crate, the driver and the GPUs of this machine.
///
/// CubeCL keys compiled kernels by architecture and by the build of the program, and tuning results
/// by the number of the device. Other hardware and another driver need their own: both can change
/// which candidate is the fastest, and a home folder may be shared by machines.
pub(super) fn environment_name() -> String {
    let mut hasher = DefaultHasher::new();
    hardware(Path::new("/proc"), Path::new("/sys")).hash(&mut hasher);
    format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())
}

/// Driver versions and GPUs, as Linux lists them; nothing on other systems, whose drivers change
/// with the system.
fn hardware(proc: &Path, sys: &Path) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(fs::read_to_string(proc.join("driver/nvidia/version")));
    parts.extend(files_in_folders(
        &proc.join("driver/nvidia/gpus"),
        &["information"],
    ));
    parts.extend(files_in_folders(
        &sys.join("class/drm"),
        &["device/vendor", "device/device"],
    ));
    // The open drivers are part of the kernel.
    parts.extend(fs::read_to_string(proc.join("sys/kernel/osrelease")));
    parts
}

fn files_in_folders(folder: &Path, names: &[&str]) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut folders = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect::<Vec<_>>();
    folders.sort();
    let files = folders
        .iter()
        .flat_map(|folder| names.iter().map(|name| folder.join(name)));
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_driver_is_other_hardware() {
        let root = tempfile::tempdir().unwrap();
        let nvidia = root.path().join("proc/driver/nvidia");
        fs::create_dir_all(nvidia.join("gpus/0000:01:00.0")).unwrap();
        let of = |version: &str, model: &str| {
            fs::write(nvidia.join("version"), version).unwrap();
            fs::write(nvidia.join("gpus/0000:01:00.0/information"), model).unwrap();
            hardware(&root.path().join("proc"), &root.path().join("sys"))
        };
        let first = of("580.1", "H100");
        assert_eq!(first, of("580.1", "H100"));
        assert_ne!(first, of("580.2", "H100"));
        assert_ne!(first, of("580.1", "H200"));
    }

    #[test]
    fn a_machine_that_lists_nothing_has_a_name() {
        let none = Path::new("/nowhere");
        assert!(hardware(none, none).is_empty());
        assert!(environment_name().starts_with(env!("CARGO_PKG_VERSION")));
    }
}
