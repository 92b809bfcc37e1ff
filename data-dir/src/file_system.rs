//! Which file systems are refused.
//!
//! A lock on a network file system is freed when a server thinks so, not when a process ends; on a file system that another
//! machine provides (9p, fuse, virtiofs) nobody knows who else writes there, and a sync may be a wish.

use std::io;
use std::path::Path;

/// The name of the file system at this path, if it is one that is refused.
pub(crate) fn refused_at(path: &Path) -> io::Result<Option<&'static str>> {
    // The kernel's numbers have 32 bits, in a field whose width and sign differ by machine.
    let magic = rustix::fs::statfs(path)?.f_type as u32;
    Ok(refused(magic))
}

fn refused(magic: u32) -> Option<&'static str> {
    REFUSED.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

/// The numbers are those of the kernel's `magic.h`, or of the file system's own source.
const REFUSED: [(u32, &str); 18] = [
    (0x0000_6969, "NFS, a network file system"),
    (0x0000_517B, "SMB, a network file system"),
    (0xFF53_4D42, "CIFS, a network file system"),
    (0xFE53_4D42, "SMB, a network file system"),
    (0x0000_564C, "NCP, a network file system"),
    (0x5346_414F, "AFS, a network file system"),
    (0x6B41_4653, "AFS, a network file system"),
    (0x7375_7245, "Coda, a network file system"),
    (0x00C3_6400, "Ceph, a network file system"),
    (0x0116_1970, "GFS2, a file system of several machines"),
    (0x7461_636F, "OCFS2, a file system of several machines"),
    (0x0BD0_0BD0, "Lustre, a network file system"),
    (0x4750_4653, "GPFS, a file system of several machines"),
    (0x1983_0326, "BeeGFS, a network file system"),
    (0x0102_1997, "9p, a folder of another machine"),
    (0x6573_5546, "fuse or virtiofs, a file system outside of the kernel"),
    (0x786F_4256, "vboxsf, a folder of another machine"),
    (0xBACB_ACBC, "vmhgfs, a folder of another machine"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_others_are_refused_and_local_ones_are_not() {
        assert!(refused(0x6969).is_some_and(|name| name.contains("NFS")));
        assert!(refused(0x0102_1997).is_some_and(|name| name.contains("9p")));
        assert!(refused(0x6573_5546).is_some_and(|name| name.contains("fuse")));
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS.
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1, 0xF2F5_2010] {
            assert_eq!(refused(local), None, "{local:x}");
        }
        assert_eq!(refused_at(Path::new("/proc")).unwrap(), None);
    }
}
