//! Which cgroup hierarchies are mounted and where in them this process is, out of the kernel's
//! two texts. A pure parser: what cannot be understood is left out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The folder of the group that this process is in; the mount itself where that is out of
    /// sight.
    pub own: PathBuf,
}

/// All mounted hierarchies: version 1 alone, version 2 alone, or both side by side (hybrid).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The hierarchies of version 1, by controller.
    pub v1: BTreeMap<String, Hierarchy>,
    /// The hierarchy of version 2.
    pub v2: Option<Hierarchy>,
}

impl Layout {
    /// Reads the texts of /proc/self/mountinfo and /proc/self/cgroup.
    #[must_use]
    pub fn parse(mountinfo: &str, own: &str) -> Self {
        let mut layout = Self::default();
        for mount in mountinfo.lines().filter_map(Mount::parse) {
            match mount.kind {
                "cgroup2" if layout.v2.is_none() => {
                    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
                    layout.v2 = Some(mount.hierarchy(own));
                }
                "cgroup" => {
                    for controller in mount.options.split(',') {
                        let Some(own) = v1_group(own, controller) else {
                            // An option that is none, such as `rw`.
                            continue;
                        };
                        layout
                            .v1
                            .entry(controller.to_owned())
                            .or_insert_with(|| mount.hierarchy(Some(own)));
                    }
                }
                _ => {}
            }
        }
        layout
    }
}

/// What a line of mountinfo says.
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (ours, theirs) = line.split_once(" - ")?;
        let mut ours = ours.split(' ').skip(3);
        let mut theirs = theirs.split(' ');
        Some(Self {
            root: unescape(ours.next()?),
            point: unescape(ours.next()?),
            kind: theirs.next()?,
            options: theirs.nth(1)?,
        })
    }

    fn hierarchy(&self, own: Option<&str>) -> Hierarchy {
        let inside = own.and_then(|own| Path::new(own).strip_prefix(&self.root).ok());
        // A group outside of the cgroup namespace is shown as /../name.
        let inside = inside.filter(|path| path.components().all(|part| part.as_os_str() != ".."));
        Hierarchy {
            own: match inside {
                Some(inside) if inside != Path::new("") => self.point.join(inside),
                Some(_) | None => self.point.clone(),
            },
            mount: self.point.clone(),
        }
    }
}

/// The group of this process in the hierarchy that has a controller.
fn v1_group<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let has = controllers.split(',').any(|name| name == controller);
        has.then(|| parts.next()).flatten()
    })
}

/// Undoes the kernel's `\040` for a blank and its like.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| byte == b'\\').and_then(|code| {
            let code = std::str::from_utf8(code).ok()?;
            u8::from_str_radix(code, 8).ok()
        });
        if let Some(code) = code {
            bytes.push(code);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "\
24 30 0:22 / /proc rw,nosuid - proc proc rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
    const V2_OWN: &str = "0::/system.slice/weald-worker.service\n";

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,pids
35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
";
    const V1_OWN: &str = "\
4:pids:/system.slice/weald.service
3:memory:/system.slice/weald.service
2:cpu,cpuacct:/
1:name=systemd:/system.slice/weald.service
";

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_OWN: &str = "4:memory:/process_api/a9a3\n1:cpu:/\n0::/\n";

    fn hierarchy(mount: &str, own: &str) -> Hierarchy {
        Hierarchy {
            mount: mount.into(),
            own: own.into(),
        }
    }

    #[test]
    fn version_2_is_one_hierarchy() {
        let layout = Layout::parse(V2, V2_OWN);
        let expected = Layout {
            v1: BTreeMap::new(),
            v2: Some(hierarchy(
                "/sys/fs/cgroup",
                "/sys/fs/cgroup/system.slice/weald-worker.service",
            )),
        };
        assert_eq!(layout, expected);
    }

    #[test]
    fn version_1_is_one_hierarchy_per_mount() {
        let layout = Layout::parse(V1, V1_OWN);
        let names: Vec<&str> = layout.v1.keys().map(String::as_str).collect();
        assert_eq!(names, ["cpu", "cpuacct", "memory", "name=systemd", "pids"]);
        let cpu = hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(layout.v1["cpu"], cpu);
        assert_eq!(layout.v1["cpuacct"], cpu);
        assert_eq!(
            layout.v1["memory"].own,
            Path::new("/sys/fs/cgroup/memory/system.slice/weald.service")
        );
        assert_eq!(layout.v2, None);
    }

    #[test]
    fn hybrid_is_both() {
        let layout = Layout::parse(HYBRID, HYBRID_OWN);
        assert_eq!(
            layout.v1["memory"].own,
            Path::new("/sys/fs/cgroup/memory/process_api/a9a3")
        );
        let unified = "/sys/fs/cgroup/unified";
        assert_eq!(layout.v2, Some(hierarchy(unified, unified)));
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount() {
        // Without a cgroup namespace the mount's root is the container's group.
        let mounts = "1 2 0:3 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let layout = Layout::parse(mounts, "5:memory:/docker/ab/worker\n");
        assert_eq!(
            layout.v1["memory"],
            hierarchy("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/worker")
        );
        // A group that is not below what is mounted is out of sight.
        let layout = Layout::parse(mounts, "5:memory:/elsewhere\n");
        assert_eq!(layout.v1["memory"].own, Path::new("/sys/fs/cgroup/memory"));
        let mounts = "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mounts, "0::/../init\n");
        assert_eq!(
            layout.v2,
            Some(hierarchy("/sys/fs/cgroup", "/sys/fs/cgroup"))
        );
    }

    #[test]
    fn what_is_no_mount_is_left_out() {
        for bad in [
            "",
            "\n",
            "1 2 3",
            "1 2 3 4 5 - cgroup2",
            "a - b",
            " - cgroup2 x y",
        ] {
            assert_eq!(Layout::parse(bad, V2_OWN), Layout::default(), "{bad:?}");
        }
        let blank = "1 2 0:3 / /mnt/a\\040b\\ rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(blank, "nonsense\n0::/x\n");
        assert_eq!(layout.v2, Some(hierarchy("/mnt/a b\\", "/mnt/a b\\/x")));
    }
}
