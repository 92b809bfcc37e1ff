//! The kernel as it is when it is unpacked. It unpacks itself when it starts, but under emulation that takes longer than all the rest of
//! its start, and QEMU can start it unpacked.

/// The packed kernel in a boot image, if it is packed as the stock ones are, by `xz`.
pub(super) fn packed(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC_AT..)?.get(..MAGIC.len())? != MAGIC {
        return None;
    }
    let number = |at: usize| Some(u32::from_le_bytes(image.get(at..)?.get(..4)?.try_into().ok()?) as usize);
    // 0 stands for 4, from times before the field was there.
    let setup_sectors = match *image.get(SETUP_SECTORS_AT)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((setup_sectors + 1) * SECTOR_LEN).checked_add(number(PAYLOAD_OFFSET_AT)?)?;
    // The kernel's build puts the unpacked length behind what it packed.
    let len = number(PAYLOAD_LEN_AT)?.checked_sub(4)?;
    image.get(start..)?.get(..len).filter(|packed| packed.starts_with(XZ_MAGIC))
}

const SECTOR_LEN: usize = 512;
const SETUP_SECTORS_AT: usize = 0x1f1;
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LEN_AT: usize = 0x24c;
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8], offset: u32, len: u32) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR_LEN];
        image[SETUP_SECTORS_AT] = 1;
        image[MAGIC_AT..][..4].copy_from_slice(MAGIC);
        image[PAYLOAD_OFFSET_AT..][..4].copy_from_slice(&offset.to_le_bytes());
        image[PAYLOAD_LEN_AT..][..4].copy_from_slice(&len.to_le_bytes());
        let start = 2 * SECTOR_LEN + 16;
        image[start..start + payload.len()].copy_from_slice(payload);
        image
    }

    #[test]
    fn the_packed_kernel_is_found_without_its_length() {
        let payload = b"\xfd7zXZ\0packed----";
        assert_eq!(packed(&image(payload, 16, payload.len() as u32)), Some(&payload[..payload.len() - 4]));
    }

    #[test]
    fn what_is_packed_otherwise_or_cut_off_is_left_alone() {
        let payload = b"\x1f\x8bpacked----";
        assert_eq!(packed(&image(payload, 16, payload.len() as u32)), None);
        assert_eq!(packed(&image(b"\xfd7zXZ\0", 16, u32::MAX)), None);
        assert_eq!(packed(&image(b"\xfd7zXZ\0", u32::MAX, 8)), None);
        assert_eq!(packed(&image(b"\xfd7zXZ\0", 16, 3)), None);
        (0..600).for_each(|len| assert_eq!(packed(&vec![0; len]), None));
    }
}
