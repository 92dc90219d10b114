//! What can go wrong: a PTX text that we do not understand ([`Error`]) and a kernel that did something it must not
//! ([`Fault`]). Both say where: the PTX line, and the `.cu` line where `-lineinfo` left one.

use std::fmt;

/// A PTX text or a request to the machine that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Line of the PTX text, counted from 1; 0 when the error concerns no line.
    pub line: u32,
    /// What is wrong, with the offending text.
    pub what: String,
}

impl Error {
    pub(crate) fn new(line: u32, what: impl Into<String>) -> Error {
        Error { line, what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 { write!(f, "PTX line {}: {}", self.line, self.what) } else { f.write_str(&self.what) }
    }
}

impl std::error::Error for Error {}

/// A position in the CUDA source, taken from a `.loc` directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// Path of the file as nvcc wrote it.
    pub file: String,
    /// Line in that file, counted from 1.
    pub line: u32,
    /// For code inlined from elsewhere: the place that it was inlined into.
    pub inlined_at: Option<(String, u32)>,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match &self.inlined_at {
            Some((file, line)) => write!(f, " (inlined at {file}:{line})"),
            None => Ok(()),
        }
    }
}

/// The kind of a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access that lies (partly) outside every allocation, or outside the block's shared memory.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of bytes that nobody ever wrote.
    Uninitialised,
    /// Two warps touched the same shared bytes with no barrier between, one of them writing; or two lanes wrote
    /// different values to one place in one instruction.
    SharedRace,
    /// Two blocks touched the same global bytes, at least one writing, without atomics.
    BlockRace,
    /// A `.sync` instruction whose member mask names lanes that are not there, or leaves out the executing lane.
    AbsentLanes,
    /// A barrier that part of the threads cannot reach.
    BarrierDivergence,
    /// A read or write of a `cp.async` destination before its wait.
    AsyncPending,
    /// A thread that ended with `cp.async` copies not waited for.
    AsyncAtExit,
    /// Nothing can run any more, or a warp used up its instruction budget (a spin lock, an endless loop).
    NoProgress,
    /// `trap`, or a failed device-side `assert`.
    Trap,
    /// A launch that the kernel or the machine does not allow (too many threads, wrong parameter bytes).
    Launch,
}

/// A kernel did something it must not. The launch stops at the first fault found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What class of mistake.
    pub kind: FaultKind,
    /// The details, in words.
    pub what: String,
    /// Name of the kernel.
    pub kernel: String,
    /// Line of the PTX text, 0 where none applies.
    pub line: u32,
    /// The instruction's text.
    pub text: String,
    /// The CUDA source line, if the PTX carries `.loc` directives.
    pub source: Option<SourceLine>,
    /// Block index (x, y, z).
    pub block: [u32; 3],
    /// Thread index (x, y, z) within the block, if one thread is to blame.
    pub thread: Option<[u32; 3]>,
    /// The address, in its own state space, if an access is to blame.
    pub address: Option<u64>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.kernel, self.kind, self.what)?;
        let [x, y, z] = self.block;
        write!(f, "\n  block ({x},{y},{z})")?;
        if let Some([x, y, z]) = self.thread {
            write!(f, " thread ({x},{y},{z})")?;
        }
        if let Some(address) = self.address {
            write!(f, " address {address:#x}")?;
        }
        if self.line > 0 {
            write!(f, "\n  PTX line {}: {}", self.line, self.text)?;
        }
        if let Some(source) = &self.source {
            write!(f, "\n  at {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
