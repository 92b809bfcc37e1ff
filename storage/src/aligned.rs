//! Bytes at a 16-byte boundary, so that a loaded archive can be read in place.
//!
//! `Vec<u8>` promises no alignment; this does, without unsafe code.

use std::fmt;
use std::ops::Deref;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Owned, immutable bytes that start at a 16-byte boundary.
#[derive(Clone)]
pub struct AlignedBytes {
    blocks: Box<[Block]>,
    length: usize,
}

impl AlignedBytes {
    /// Copies the bytes to a 16-byte boundary.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut blocks = vec![Block([0; 16]); bytes.len().div_ceil(size_of::<Block>())].into_boxed_slice();
        blocks.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Self { blocks, length: bytes.len() }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.blocks.as_bytes()[..self.length]
    }
}

impl PartialEq for AlignedBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for AlignedBytes {}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(16))]
struct Block([u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept_and_aligned() {
        let source: Vec<u8> = (0..=255).collect();
        for length in 0..=source.len() {
            let aligned = AlignedBytes::copy_from(&source[..length]);
            assert_eq!(&*aligned, &source[..length]);
            assert_eq!(aligned.as_ptr() as usize % 16, 0);
        }
    }
}
