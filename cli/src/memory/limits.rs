//! What this process may still take of the machine's memory.
//!
//! The machine's free memory is one bound of several: a container has a control group, a shell a
//! `ulimit`, and either may be far below what the machine has.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Something that bounds the memory of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// What the machine has free, page cache that it can drop included.
    Machine,
    /// A control group, in which containers and services run.
    ControlGroup(PathBuf),
    /// `ulimit -v`.
    AddressSpace,
    /// `ulimit -d`.
    DataSegment,
    /// The memory of a GPU.
    Device(String),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("available on this machine"),
            Self::ControlGroup(path) => {
                write!(f, "left by the memory limit of {}", path.display())
            }
            Self::AddressSpace => f.write_str("left by the limit of the address space, ulimit -v"),
            Self::DataSegment => f.write_str("left by the limit of the data segment, ulimit -d"),
            Self::Device(name) => write!(f, "on device {name}"),
        }
    }
}

/// How many bytes a bound leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub bytes: u64,
    pub bound: Bound,
}

/// Everything that bounds this process, as far as the system tells.
pub(super) fn of_process() -> Vec<Room> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut rooms = Vec::new();
    rooms.extend(machine());
    rooms.extend(control_groups(
        &read("/proc/self/cgroup"),
        &read("/proc/self/mountinfo"),
    ));
    rooms.extend(resource_limits(
        &read("/proc/self/limits"),
        &read("/proc/self/status"),
    ));
    rooms
}

fn machine() -> Option<Room> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory));
    // Zero where the system does not tell.
    Some(system.available_memory())
        .filter(|&bytes| bytes > 0)
        .map(|bytes| Room {
            bytes,
            bound: Bound::Machine,
        })
}

/// The limits of the process's control group and of all groups around it, in either version.
fn control_groups(groups: &str, mounts: &str) -> Vec<Room> {
    let mut rooms = Vec::new();
    for hierarchy in mounts.lines().filter_map(Hierarchy::parse) {
        let Some(group) = hierarchy.group(groups) else {
            continue;
        };
        // Where the mount does not show the process's own group, as in a container without a
        // namespace of its own, what it shows is the container.
        let shown = Path::new(group).strip_prefix(&hierarchy.root);
        let is_inside = |path: &&Path| path.components().all(|part| part != Component::ParentDir);
        let shown = shown.ok().filter(is_inside).unwrap_or(Path::new(""));
        for ancestor in shown.ancestors() {
            rooms.extend(hierarchy.room(&hierarchy.mount.join(ancestor)));
        }
    }
    rooms
}

/// Where the memory limits of control groups are mounted.
struct Hierarchy {
    /// The group that is mounted.
    root: PathBuf,
    mount: PathBuf,
    version: Version,
}

enum Version {
    V1,
    V2,
}

impl Hierarchy {
    /// From a line of `mountinfo`: `32 31 0:29 ROOT MOUNT OPTIONS .. - TYPE SOURCE SUPER_OPTIONS`.
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => Version::V1,
            _ => return None,
        };
        Some(Self {
            root: unescaped(root).into(),
            mount: unescaped(mount).into(),
            version,
        })
    }

    /// The process's group, from the lines of `cgroup`: `ID:CONTROLLERS:GROUP`.
    fn group<'a>(&self, groups: &'a str) -> Option<&'a str> {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_id, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
            let is_this = match self.version {
                Version::V1 => controllers.split(',').any(|name| name == "memory"),
                Version::V2 => controllers.is_empty(),
            };
            is_this.then_some(group)
        })
    }

    /// What the limit of a group leaves, if it has one.
    fn room(&self, group: &Path) -> Option<Room> {
        let number = |name: &str| {
            let text = fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let (limit, used, prefix) = match self.version {
            Version::V1 => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
            Version::V2 => ("memory.max", "memory.current", ""),
        };
        // `max`, or the largest number of pages, is no limit.
        let limit = number(limit).filter(|&limit| limit < i64::MAX as u64 - (1 << 20))?;
        let used = number(used)?;
        // Page cache counts as used, and gives way.
        let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = ["inactive_file", "active_file"].map(|name| {
            let key = format!("{prefix}{name} ");
            let mut lines = statistics.lines();
            let value = lines.find_map(|line| line.strip_prefix(&key));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        });
        let cached = cached.into_iter().flatten().sum::<u64>();
        Some(Room {
            bytes: limit.saturating_sub(used.saturating_sub(cached)),
            bound: Bound::ControlGroup(group.into()),
        })
    }
}

/// `mountinfo` writes spaces and the like as octal numbers.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (code, character)| {
            path.replace(code, character)
        })
}

/// What `ulimit` leaves, from `/proc/self/limits` and `/proc/self/status`.
fn resource_limits(limits: &str, status: &str) -> Vec<Room> {
    let soft = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        // `unlimited` is no number.
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let used = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(kib * 1024)
    };
    let bounds = [
        (Bound::AddressSpace, "Max address space", "VmSize:"),
        (Bound::DataSegment, "Max data size", "VmData:"),
    ];
    let rooms = bounds.into_iter().map(|(bound, limit, size)| {
        let bytes = soft(limit)?.saturating_sub(used(size)?);
        Some(Room { bytes, bound })
    });
    rooms.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(group: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(group).unwrap();
        for (name, content) in files {
            fs::write(group.join(name), content).unwrap();
        }
    }

    fn mount(dir: &Path, root: &str, kind: &str) -> String {
        format!(
            "23 1 0:20 / /proc rw - proc proc rw\n35 31 0:32 {root} {} rw,relatime - {kind}\n",
            dir.display().to_string().replace(' ', "\\040")
        )
    }

    #[test]
    fn groups_around_the_process_are_limits_too() {
        let dir = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        let pod = dir.path().join("pod");
        let container = pod.join("container");
        let statistics = "anon 900\ninactive_file 100\nactive_file 50\n";
        write(
            &container,
            &[("memory.max", "max\n"), ("memory.current", "1000\n")],
        );
        write(
            &pod,
            &[
                ("memory.max", "5000\n"),
                ("memory.current", "1000\n"),
                ("memory.stat", statistics),
            ],
        );
        let mounts = mount(dir.path(), "/", "cgroup2 cgroup2 rw");
        let rooms = control_groups("1:name=systemd:/\n0::/pod/container\n", &mounts);
        let expected = Room {
            bytes: 5000 - (1000 - 150),
            bound: Bound::ControlGroup(pod),
        };
        assert_eq!(rooms, [expected]);
    }

    #[test]
    fn version_1_counts_groups_below_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("docker");
        let statistics = "inactive_file 9\ntotal_inactive_file 100\ntotal_active_file 0\n";
        let files = [
            ("memory.limit_in_bytes", "5000\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.stat", statistics),
        ];
        write(&group, &files);
        write(
            dir.path(),
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "1000\n"),
            ],
        );
        let groups = "8:pids:/\n4:cpuacct,memory:/docker\n0::/\n";
        let mounts = mount(dir.path(), "/", "cgroup cgroup rw,memory");
        let rooms = control_groups(groups, &mounts);
        assert_eq!(rooms.len(), 1, "{rooms:?}");
        assert_eq!(rooms[0].bytes, 4100);
        // Another controller's hierarchy has no memory limits.
        let others = mount(dir.path(), "/", "cgroup cgroup rw,cpu");
        assert!(control_groups(groups, &others).is_empty());
    }

    #[test]
    fn a_mount_without_the_process_group_shows_the_container() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[("memory.max", "5000"), ("memory.current", "1000")],
        );
        for (root, group) in [("/docker/1", "/docker/1"), ("/", "/../../elsewhere")] {
            let mounts = mount(dir.path(), root, "cgroup2 cgroup2 rw");
            let rooms = control_groups(&format!("0::{group}"), &mounts);
            let min = rooms.iter().map(|room| room.bytes).min();
            assert_eq!(min, Some(4000), "{root} {group}");
        }
    }

    #[test]
    fn limits_of_the_shell_leave_what_is_not_taken_yet() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max data size             unlimited            unlimited            bytes     \n\
             Max address space         2147483648           2147483648           bytes     \n";
        let status = "Name:\tquest\nVmSize:\t 1048576 kB\nVmData:\t  1024 kB\n";
        let rooms = resource_limits(limits, status);
        let expected = Room {
            bytes: 1 << 30,
            bound: Bound::AddressSpace,
        };
        assert_eq!(rooms, [expected]);
    }

    #[test]
    fn this_machine_tells_something() {
        let rooms = of_process();
        assert!(rooms.iter().any(|room| room.bound == Bound::Machine));
        assert!(rooms.iter().all(|room| room.bytes > 0), "{rooms:?}");
    }
}
