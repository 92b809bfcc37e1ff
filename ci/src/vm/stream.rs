//! An output of the guest on its way to ours: it ends where the guest says so, and lines of several guests are told apart.

use std::io::{self, Write};

/// The shell word for the end of an output, for the format of `printf`.
pub(super) const END_FORMAT: &str = r"\000end of this output\000";
const END: &[u8] = b"\0end of this output\0";

/// Bytes of a line that are held back at most.
const LINE_LEN_MAX: usize = 64 << 10;

/// Passes an output on up to its end.
#[derive(Debug)]
pub(super) struct Stream<W> {
    target: W,
    /// What opens each line, if anything.
    prefix: String,
    /// What may be the beginning of the end.
    held: Vec<u8>,
    at_line_start: bool,
}

impl<W: Write> Stream<W> {
    pub(super) fn new(target: W, prefix: String) -> Self {
        Self { target, prefix, held: Vec::new(), at_line_start: true }
    }

    /// Passes on what can be passed on; `true` at the end.
    ///
    /// # Errors
    /// The target's.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.held.extend_from_slice(bytes);
        let end = self.held.windows(END.len()).position(|window| window == END);
        let mut passed_len = end.unwrap_or_else(|| self.held.len() - self.beginning_of_end_len());
        if end.is_none() && !self.prefix.is_empty() && passed_len < LINE_LEN_MAX {
            // Of several guests only whole lines: parts of two would make a line that nobody has written.
            passed_len =
                self.held[..passed_len].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        }
        let passed: Vec<u8> = self.held.drain(..passed_len).collect();
        self.write(&passed)?;
        Ok(end.is_some())
    }

    /// How many of the last bytes held are the first of the end.
    fn beginning_of_end_len(&self) -> usize {
        let longest = self.held.len().min(END.len() - 1);
        (1..=longest).rev().find(|&len| self.held.ends_with(&END[..len])).unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.prefix.is_empty() {
            self.target.write_all(bytes)?;
        } else {
            let mut marked = Vec::new();
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                if self.at_line_start {
                    marked.extend_from_slice(self.prefix.as_bytes());
                }
                marked.extend_from_slice(line);
                self.at_line_start = line.ends_with(b"\n");
            }
            self.target.write_all(&marked)?;
        }
        self.target.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefix: &str, parts: &[&[u8]], expected: &str, expected_end: bool) {
        let mut stream = Stream::new(Vec::new(), prefix.to_owned());
        let ends = parts.iter().any(|part| stream.handle_bytes(part).expect("memory takes all"));
        assert_eq!((String::from_utf8_lossy(&stream.target).as_ref(), ends), (expected, expected_end));
    }

    #[test]
    fn an_output_ends_where_it_says_so_however_it_is_cut() {
        check("", &[b"one\ntwo"], "one\ntwo", false);
        check("", &[b"one\0end of this output\0rest"], "one", true);
        check("", &[b"one\0end of", b" this out", b"put\0"], "one", true);
        check("", &[END], "", true);
    }

    #[test]
    fn what_only_looks_like_the_end_is_passed_on() {
        check("", &[b"a\0end", b" of it"], "a\0end of it", false);
        check("", &[b"\0\0end of this output\0"], "\0", true);
    }

    #[test]
    fn lines_of_one_of_several_guests_carry_its_number() {
        check("2| ", &[b"a\nb", b"c\n", b"d"], "2| a\n2| bc\n", false);
        check("2| ", &[b"a\nb", END], "2| a\n2| b", true);
    }

    #[test]
    fn the_shell_writes_the_end_that_is_looked_for() {
        assert_eq!(END_FORMAT.replace(r"\000", "\0").as_bytes(), END);
    }
}
