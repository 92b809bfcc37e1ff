//! The file with the secret: who may join a cluster, and which cluster it is.
//!
//! ```text
//! # Epic Server: id and secret of a cluster. ..
//! cluster = 32 hexadecimal digits
//! secret = 64 hexadecimal digits
//! ```
//! Empty lines and lines that begin with `#` say nothing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::random;

/// Id and secret of a cluster. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Which cluster; not secret.
    pub cluster: u128,
    /// What a process proves to know when it joins.
    pub secret: [u8; 32],
}

impl ClusterIdentity {
    /// A new cluster, from the operating system's source of randomness.
    pub fn found() -> Self {
        Self { cluster: u128::from_be_bytes(random::bytes()), secret: random::bytes() }
    }

    /// Reads a file with the secret, such as a copy of `cluster.secret` from another machine's data directory.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(TEXT_LENGTH_MAX + 1).read_to_string(&mut text));
        match read {
            Ok(length) if length as u64 > TEXT_LENGTH_MAX => Err(SecretError::TooLong),
            Ok(_) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(SecretError::Line { line: 1 }),
            Err(error) => Err(SecretError::Io { reason: error.to_string() }),
        }
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// [`SecretError`] says which line is wrong, or what is missing.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let (mut cluster, mut secret) = (None, None);
        for (place, line) in text.lines().map(str::trim).enumerate() {
            let line_number = place + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or(SecretError::Line { line: line_number })?;
            match name.trim() {
                "cluster" => put(&mut cluster, "cluster", value, line_number)?,
                "secret" => put(&mut secret, "secret", value, line_number)?,
                _ => return Err(SecretError::Line { line: line_number }),
            }
        }
        let cluster = cluster.map(u128::from_be_bytes).ok_or(SecretError::Missing { name: "cluster" })?;
        Ok(Self { cluster, secret: secret.ok_or(SecretError::Missing { name: "secret" })? })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let secret: String = self.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{HEADING}cluster = {:032x}\nsecret = {secret}\n", self.cluster)
    }

    /// Whether a file is there, at a path that may be wrong in other ways.
    pub(crate) fn is_at(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }
}

impl fmt::Debug for ClusterIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = format_args!("{:032x}", self.cluster);
        formatter.debug_struct("ClusterIdentity").field("cluster", &cluster).finish_non_exhaustive()
    }
}

/// The file does not hold id and secret of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("it cannot be read: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
    /// More than such a file has.
    #[error(
        "it is longer than {TEXT_LENGTH_MAX} bytes; a file with id and secret of a cluster is a copy of `cluster.secret`"
    )]
    TooLong,
    /// A line is neither of the two, nor a comment.
    #[error(
        "line {line} is not `cluster = ..` or `secret = ..`; copy `cluster.secret` of a data directory once more"
    )]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// The value is cut off, or has something else in it.
    #[error("line {line}: `{name}` has to have {digits} hexadecimal digits; copy `cluster.secret` once more")]
    Digits {
        /// Which line, from 1.
        line: usize,
        /// Which value.
        name: &'static str,
        /// How many digits it has to have.
        digits: usize,
    },
    /// Twice the same.
    #[error("line {line}: `{name}` is there twice; keep the file of one cluster only")]
    Twice {
        /// Which line, from 1.
        line: usize,
        /// Which value.
        name: &'static str,
    },
    /// One of the two is not there.
    #[error("`{name} = ..` is missing; copy `cluster.secret` of a data directory as a whole")]
    Missing {
        /// Which value.
        name: &'static str,
    },
}

fn put<const LENGTH: usize>(
    place: &mut Option<[u8; LENGTH]>,
    name: &'static str,
    text: &str,
    line: usize,
) -> Result<(), SecretError> {
    let value = hexadecimal(text.trim()).ok_or(SecretError::Digits { line, name, digits: 2 * LENGTH })?;
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(SecretError::Twice { line, name }),
    }
}

fn hexadecimal<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut value = [0; LENGTH];
    // The count of bytes is that of digits only where all are ASCII, and `from_str_radix` would take a sign.
    if text.len() != 2 * LENGTH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in value.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(value)
}

const TEXT_LENGTH_MAX: u64 = 4096;

const HEADING: &str = "\
# Epic Server: id and secret of a cluster. Whoever has this file can join the cluster and read all of its state.
# A copy of it is all that another machine needs.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_comes_back_and_tells_no_secret_in_debug() {
        let identity = ClusterIdentity::found();
        assert_eq!(ClusterIdentity::parse(&identity.to_text()), Ok(identity.clone()));
        assert_ne!(identity, ClusterIdentity::found());
        let secret = identity.to_text().lines().last().unwrap()["secret = ".len()..].to_owned();
        assert!(!format!("{identity:?}").contains(&secret[..8]));
        let spaced = format!("\r\n  cluster={:032X}\r\n\r\n# x\r\nsecret =   {}  ", identity.cluster, secret);
        assert_eq!(ClusterIdentity::parse(&spaced), Ok(identity));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parse = |text: &str| ClusterIdentity::parse(text).unwrap_err();
        let (id, secret) = ("ab".repeat(16), "cd".repeat(32));
        assert_eq!(parse(""), SecretError::Missing { name: "cluster" });
        assert_eq!(parse(&format!("cluster = {id}")), SecretError::Missing { name: "secret" });
        assert_eq!(parse(&format!("#\n{secret}")), SecretError::Line { line: 2 });
        assert_eq!(parse("colour = red"), SecretError::Line { line: 1 });
        let digits = |line, name, digits| SecretError::Digits { line, name, digits };
        assert_eq!(parse(&format!("secret = {}", &secret[1..])), digits(1, "secret", 64));
        assert_eq!(parse(&format!("cluster = +{}", &id[1..])), digits(1, "cluster", 32));
        assert_eq!(parse(&format!("cluster = é{}", &id[2..])), digits(1, "cluster", 32));
        let twice = format!("cluster = {id}\ncluster = {id}\n");
        assert_eq!(parse(&twice), SecretError::Twice { line: 2, name: "cluster" });
    }

    #[test]
    fn files_that_are_none_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(ClusterIdentity::read(&path), Err(SecretError::Io { .. })));
        fs::write(&path, vec![b'#'; 4097]).unwrap();
        assert_eq!(ClusterIdentity::read(&path), Err(SecretError::TooLong));
        fs::write(&path, [0xFF, 0xFE]).unwrap();
        assert_eq!(ClusterIdentity::read(&path), Err(SecretError::Line { line: 1 }));
    }
}
