//! Reads the memory limit of the container.

use std::fs::read_to_string;
use std::path::Path;

/// The lowest limit on memory that holds for this process, in bytes.
pub fn memory_limit() -> Option<u64> {
    limit(&read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// The lowest limit along the way from a process's cgroup, as `/proc/self/cgroup` names it, up to the root that is
/// mounted. In a container that root is the container's own cgroup, and what is named may lie outside of it.
fn limit(own: &str, mounted: &Path) -> Option<u64> {
    let limits = own.lines().flat_map(|line| {
        let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':')) else {
            return Vec::new();
        };
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let own = Path::new(path.trim_start_matches('/'));
        // "max" is no number, and no limit.
        own.ancestors()
            .filter_map(|folder| read_to_string(root.join(folder).join(file)).ok()?.trim().parse().ok())
            .collect()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_holds() {
        let v2 = mounted(&[("a/memory.max", "3000\n"), ("a/b/memory.max", "max\n"), ("memory.max", "9000\n")]);
        assert_eq!(limit("0::/a/b\n", v2.path()), Some(3000));
        // Seen from inside of a container, whose own cgroup is mounted as the root.
        assert_eq!(limit("0::/kubepods/pod7/x\n", v2.path()), Some(9000));
        assert_eq!(limit("0::/\n", v2.path()), Some(9000));
        let v1 = mounted(&[
            ("memory/a/memory.limit_in_bytes", "500"),
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
        ]);
        assert_eq!(limit("3:cpu,cpuacct:/a\n2:hugetlb,memory:/a\n0::/a\n", v1.path()), Some(500));
        assert_eq!(limit("0::/a\n", mounted(&[]).path()), None);
        assert_eq!(limit("nonsense", v2.path()), None);
    }
}
