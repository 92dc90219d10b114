//! Safetensors files being written: their header, small ones in memory, and large ones tensor by tensor.
//!
//! A file begins with its header, but the size of some tensors (bitsandbytes' records) is known only when they are made. So
//! [`Shard`] leaves room for the header at the beginning, tensors follow as they come, and the header is written last, padded
//! with the spaces that the format allows. Memory: one tensor. The same tensors in the same order are the same bytes.

use crate::{
    Error, Result,
    files::{StagedDir, Stream},
    tensor::{DType, Tensor},
};
use serde_json::{Map, Value, json};

/// Bytes in front of the header that hold its length.
const LENGTH: usize = 8;

/// A header that grows with the tensors behind it.
#[derive(Debug, Default)]
pub struct Header {
    entries: Map<String, Value>,
    end: usize,
}

impl Header {
    /// A header that says in its metadata that the tensors are PyTorch's, which transformers asks for.
    pub fn of_torch() -> Self {
        let entries = Map::from_iter([(METADATA.to_owned(), json!({"format": "pt"}))]);
        Self { entries, end: 0 }
    }

    /// Adds a tensor behind the last one and returns its bytes.
    ///
    /// # Errors
    /// If the name is there already.
    pub fn push(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<usize> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let entry = json!({
            "dtype": dtype.safetensors(), "shape": shape, "data_offsets": [self.end, self.end + bytes],
        });
        if self.entries.insert(name.to_owned(), entry).is_some() {
            return Err(Error::internal(format!("tensor `{name}` is written twice")));
        }
        self.end += bytes;
        Ok(bytes)
    }

    /// [`Header::push`] of a tensor that is there, checked to have the bytes that its shape says.
    fn push_tensor(&mut self, name: &str, t: &Tensor) -> Result<()> {
        let expected = t.shape.iter().product::<usize>() * t.dtype.size();
        if t.bytes.len() != expected {
            let found = t.bytes.len();
            return Err(Error::internal(format!("tensor `{name}` {:?}: {found} bytes, expected {expected}", t.shape)));
        }
        self.push(name, t.dtype, &t.shape).map(drop)
    }

    /// Bytes of all tensors.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Names of the tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str).filter(|n| *n != METADATA)
    }

    /// Length and header, padded so that the tensors begin at a multiple of `alignment` bytes.
    pub fn aligned(&self, alignment: usize) -> Vec<u8> {
        let text = Value::Object(self.entries.clone()).to_string();
        padded(&text, (LENGTH + text.len()).next_multiple_of(alignment))
    }

    /// Length and header, padded to `room` bytes.
    fn in_room(&self, room: usize) -> Result<Vec<u8>> {
        let text = Value::Object(self.entries.clone()).to_string();
        let bytes = LENGTH + text.len();
        if bytes > room {
            return Err(Error::internal(format!("a header of {bytes} bytes, room was left for {room}")));
        }
        Ok(padded(&text, room))
    }
}

/// Key of what is said of a file as a whole.
const METADATA: &str = "__metadata__";

fn padded(text: &str, to: usize) -> Vec<u8> {
    let mut bytes = ((to - LENGTH) as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(to, b' ');
    bytes
}

/// A small file in memory, behind a header that may have metadata already.
///
/// # Errors
/// If a tensor's bytes do not fit its shape, or two have one name.
pub fn file<'a>(mut header: Header, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor<'a>)>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        header.push_tensor(name, tensor)?;
        data.extend_from_slice(&tensor.bytes);
    }
    let mut file = header.aligned(8);
    file.append(&mut data);
    Ok(file)
}

/// Bytes of header left for one tensor: its name, type, shape and two offsets are less.
const ENTRY: usize = 256;

/// A large file in a directory being made.
pub struct Shard {
    stream: Stream,
    header: Header,
    room: usize,
}

impl Shard {
    /// Begins the file `name` of `dir`, with room in the header for as many as `tensors`.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn create(dir: &mut StagedDir, name: &str, tensors: usize) -> Result<Self> {
        let room = (64 + tensors * ENTRY).next_multiple_of(4096);
        let mut stream = dir.stream(name)?;
        stream.seek(room as u64)?;
        Ok(Self { stream, header: Header::of_torch(), room })
    }

    /// Appends a tensor.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.header.push_tensor(name, tensor)?;
        self.stream.write(&tensor.bytes)
    }

    /// Bytes of the tensors so far.
    pub fn bytes(&self) -> usize {
        self.header.end()
    }

    /// Writes the header and ends the file.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(mut self) -> Result<Header> {
        let header = self.header.in_room(self.room)?;
        self.stream.seek(0)?;
        self.stream.write(&header)?;
        self.stream.finish()?;
        Ok(self.header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};

    #[test]
    fn a_small_file_is_that_of_the_formats_own_crate() {
        let (values, step) = ([1.5f32, -2.0, 0.25], 7i64.to_le_bytes());
        let tensors = [("step", Tensor::new(DType::I64, [1], &step[..])), ("values", Tensor::vector(&values))];
        let ours = file(Header::default(), tensors.iter().map(|(n, t)| (*n, t))).expect("a file");
        let theirs = tensors.iter().map(|(n, t)| {
            let dtype = if t.dtype == DType::I64 { Dtype::I64 } else { Dtype::F32 };
            (*n, TensorView::new(dtype, t.shape.clone(), &t.bytes).expect("a view"))
        });
        assert_eq!(ours, ::safetensors::serialize(theirs, None).expect("a file"));
    }

    #[test]
    fn alignment_and_metadata() {
        let t = Tensor::vector(&[1.0, 2.0]);
        let bytes = file(Header::of_torch(), [("a", &t)]).expect("a file");
        let (size, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        assert_eq!(metadata.metadata().as_ref().expect("metadata")["format"], "pt");
        assert_eq!(bytes.len(), LENGTH + size + 8);
        let mut header = Header::default();
        assert_eq!(header.push("a", DType::Bf16, &[3, 5]).expect("new"), 30);
        assert_eq!(header.aligned(64).len() % 64, 0);
        assert_eq!((header.end(), header.names().collect::<Vec<_>>()), (30, vec!["a"]));
        assert!(header.push("a", DType::U8, &[1]).expect_err("twice").to_string().contains("twice"));
        assert!(header.in_room(16).is_err());
    }
}
