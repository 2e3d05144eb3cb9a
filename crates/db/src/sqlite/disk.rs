//! What kind of file system a database is on. SQLite's log needs memory that all its processes share and locks that
//! hold; on a network file system neither can be relied on.

use super::failure::Place;
use outlive_core::port::DbError;
use std::path::Path;

/// What is known about a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    /// It may be on a network, or pass through to one that is.
    Unsure(&'static str),
    Network(&'static str),
}

/// Refuses a directory on a network file system, and warns about one that may be.
///
/// # Errors
/// `Refused`.
pub(super) fn check(directory: &Path, place: &Place) -> Result<(), DbError> {
    match kind(directory) {
        Kind::Local => Ok(()),
        Kind::Unsure(name) => {
            tracing::warn!(
                "{} is on a file system of kind {name}: let one machine alone use a database there, and make sure that it \
                 keeps what was synced",
                directory.display()
            );
            Ok(())
        }
        Kind::Network(name) => {
            let why =
                format!("is on a network disk ({name}), which can lose what was acknowledged: put it on a local one");
            Err(place.refused(&why))
        }
    }
}

#[cfg(target_os = "linux")]
fn kind(directory: &Path) -> Kind {
    rustix::fs::statfs(directory).map_or(Kind::Local, |found| named(found.f_type as u64))
}

#[cfg(not(target_os = "linux"))]
fn kind(_: &Path) -> Kind {
    Kind::Local
}

/// By the numbers of the kernel's `magic.h`.
#[cfg(target_os = "linux")]
fn named(number: u64) -> Kind {
    // Some systems sign-extend it.
    match number & 0xFFFF_FFFF {
        0x6969 => Kind::Network("nfs"),
        0xFF53_4D42 => Kind::Network("cifs"),
        0xFE53_4D42 => Kind::Network("smb2"),
        0x517B => Kind::Network("smb"),
        0x564C => Kind::Network("ncp"),
        0x5346_414F | 0x6B41_4653 => Kind::Network("afs"),
        0x7375_7245 => Kind::Network("coda"),
        0x00C3_6400 => Kind::Unsure("ceph"),
        0x0BD0_0BD0 => Kind::Unsure("lustre"),
        0x6573_5546 => Kind::Unsure("fuse"),
        _ => Kind::Local,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use outlive_core::port::DbErrorKind;

    #[test]
    fn a_network_disk_is_told_from_a_local_one() {
        for (number, expected) in [
            (0x6969, Kind::Network("nfs")),
            (0xFF53_4D42, Kind::Network("cifs")),
            (0xFFFF_FFFF_FF53_4D42, Kind::Network("cifs")),
            (0xEF53, Kind::Local),      // ext4
            (0x0102_1994, Kind::Local), // tmpfs
            (0x794C_7630, Kind::Local), // overlay
            (0x6573_5546, Kind::Unsure("fuse")),
        ] {
            assert_eq!(named(number), expected, "{number:x}");
        }
        let place = Place::new(Path::new("/mnt/share/a.db"));
        check(&std::env::temp_dir(), &place).expect("a local disk");
        let refused = place.refused("is on a network disk (nfs)");
        assert_eq!(refused.kind(), DbErrorKind::Refused);
    }
}
