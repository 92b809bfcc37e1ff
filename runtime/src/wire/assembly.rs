//! Whole frames from their parts: the header that answers a request, and header, extension and payload put in order.
//!
//! It is not an encoder of payloads: errors and results come as bytes. Start with [`assemble`].

use epicserver_transport::{BufferPool, FRAME_ALIGN, Frame, FrameBuf, FrameHeader, FrameKind, HEADER_LEN};

use crate::wire::extension::{Extension, ExtensionError};

/// Puts a frame together; lengths in `header` are set here, its other fields stay.
///
/// # Errors
/// As [`Extension::write`] for what the extension cannot carry.
///
/// # Panics
/// If the payload is 2 GiB or more: senders check against the far smaller limit of a message before.
pub fn assemble(
    pool: Option<&BufferPool>,
    header: FrameHeader,
    extension: &Extension<'_>,
    payload: &[u8],
) -> Result<Frame, ExtensionError> {
    assert!(payload.len() < 1 << 31, "a payload of {} bytes", payload.len());
    let ext_len = extension.encoded_len();
    let buffer = allocate(pool, frame_len(ext_len, payload.len()));
    assemble_in(buffer, header, extension, payload)
}

/// A frame without an extension, in this buffer.
///
/// # Panics
/// If it is too short.
pub(crate) fn assemble_bare_in(mut buffer: FrameBuf, header: FrameHeader, payload: &[u8]) -> Frame {
    let len = frame_len(0, payload.len());
    assert!(len <= buffer.len(), "{len} bytes for a buffer of {}", buffer.len());
    buffer.truncate(len);
    assemble_in(buffer, header, &Extension::default(), payload).expect("an empty extension fits every frame")
}

fn assemble_in(
    mut buffer: FrameBuf,
    mut header: FrameHeader,
    extension: &Extension<'_>,
    payload: &[u8],
) -> Result<Frame, ExtensionError> {
    let ext_len = extension.encoded_len();
    let written = extension.write(&mut buffer[HEADER_LEN..HEADER_LEN + ext_len])?;
    header.ext_len.set((written / FRAME_ALIGN) as u16);
    header.payload_len.set(payload.len() as u32);
    let (front, rest) = buffer[..].split_at_mut(HEADER_LEN + ext_len);
    front[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    let (body, padding) = rest.split_at_mut(payload.len());
    body.copy_from_slice(payload);
    padding.fill(0);
    Ok(buffer.freeze())
}

/// A frame without an extension.
///
/// # Panics
/// As [`assemble`].
pub fn assemble_bare(pool: Option<&BufferPool>, header: FrameHeader, payload: &[u8]) -> Frame {
    assemble(pool, header, &Extension::default(), payload).expect("an empty extension fits every frame")
}

/// The header of a frame that answers `request` straight to the peer it came from: a reply, an error, a `Moved`.
///
/// The answer goes to the core and the call record that asked. A forwarded request is answered to the origin in its
/// extension instead.
pub fn answer_header(kind: FrameKind, request: &FrameHeader) -> FrameHeader {
    let mut header = FrameHeader::new(kind);
    header.codec = request.codec;
    header.source_core = request.target_core;
    header.target_core = request.source_core;
    header.slot = request.slot;
    header.generation = request.generation;
    header.method = request.method;
    header
}

/// Length of a whole frame in bytes, padding included.
pub fn frame_len(ext_len: usize, payload_len: usize) -> usize {
    (HEADER_LEN + ext_len + payload_len).next_multiple_of(FRAME_ALIGN)
}

/// A buffer from the pool while that has one, else from the heap: what the link itself says must never wait for
/// buffers that the peer's silence pins.
pub(crate) fn allocate(pool: Option<&BufferPool>, len: usize) -> FrameBuf {
    pool.and_then(|pool| pool.alloc(len)).unwrap_or_else(|| FrameBuf::unpooled(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_out_of_a_frame() {
        let extension = Extension { hops: 3, ..Extension::default() };
        let frame = assemble(None, FrameHeader::new(FrameKind::Error), &extension, b"no").unwrap();
        assert_eq!(FrameHeader::parse_frame(&frame).map(FrameHeader::kind), Ok(FrameKind::Error));
        assert_eq!(Extension::parse(FrameHeader::ext_bytes(&frame).unwrap()), Ok(extension));
        assert_eq!(FrameHeader::payload_bytes(&frame), Some(&b"no"[..]));
    }

    #[test]
    fn what_an_earlier_use_left_in_a_buffer_is_not_sent() {
        let pool = BufferPool::new(&[epicserver_transport::SizeClass { buffer_len: 256, buffers_max: 1 }]);
        pool.alloc(256).unwrap().fill(0xee);
        let extension = Extension { hops: 3, ..Extension::default() };
        let frame = assemble(Some(&pool), FrameHeader::new(FrameKind::Error), &extension, b"no").unwrap();
        assert_eq!(pool.outstanding(), 1);
        assert!(!frame.contains(&0xee));
    }

    #[test]
    fn an_answer_goes_back_to_the_call_record_that_asked() {
        let mut request = FrameHeader::new(FrameKind::Request);
        (request.source_core, request.target_core) = (1, 2);
        (request.slot, request.generation, request.method) = (3.into(), 4.into(), 5.into());
        let answer = answer_header(FrameKind::Reply, &request);
        assert_eq!((answer.source_core, answer.target_core), (2, 1));
        assert_eq!((answer.slot, answer.generation, answer.method), (3.into(), 4.into(), 5.into()));
        assert_eq!(answer.kind(), FrameKind::Reply);
    }
}
