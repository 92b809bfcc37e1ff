//! The archive that a kernel unpacks as its first root: cpio in the format `newc`, as far as files and folders go.

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a file that may be executed.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let content_len = u32::try_from(content.len()).expect("files of a first root are small");
        let path_len = u32::try_from(path.len() + 1).expect("paths are short");
        // Serial number, mode, owner, group, links, time, length, four numbers of devices, length of the path, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, content_len, 0, 0, 0, 0, path_len, 0];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

const MAGIC: &[u8] = b"070701";

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths and contents, read back by the description of the format.
    fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], MAGIC);
            let field = |index: usize| {
                let digits = &bytes[at + 6 + 8 * index..][..8];
                usize::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a number")
            };
            let (mode, content_len, path_len) = (field(1), field(6), field(11));
            let path = &bytes[at + 110..][..path_len - 1];
            let content_at = (at + 110 + path_len).next_multiple_of(4);
            let content = bytes[content_at..content_at + content_len].to_vec();
            found.push((String::from_utf8(path.to_vec()).expect("text"), mode as u32, content));
            at = (content_at + content_len).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn what_was_added_can_be_read_back() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/x", b"abcde");
        let found = entries(&archive.finish());
        let expected = [("bin", 0o040_755, &b""[..]), ("bin/x", 0o100_755, b"abcde"), ("TRAILER!!!", 0, b"")];
        let expected = expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_vec()));
        assert_eq!(found, expected);
    }
}
