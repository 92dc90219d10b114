//! Tokenised samples, and what one forward pass sees of them.

/// Label of a token that carries no loss (PyTorch's `ignore_index`).
pub const NO_LOSS: i32 = -100;

/// A tokenised training or evaluation example.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// As long as `tokens`; label t is the token that position t−1 must predict, or [`NO_LOSS`]. Not shifted.
    pub labels: Vec<i32>,
}

impl Sample {
    /// Number of positions whose next token carries loss.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&l| l != NO_LOSS).count()
    }
}

/// Several documents in one forward pass, concatenated without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids of all rows.
    pub tokens: Vec<u32>,
    /// Position of each row in its document.
    pub positions: Vec<u32>,
    /// Number of each row's sample in the data set (dropout is a function of it).
    pub samples: Vec<u32>,
    /// First row of each document, then the number of rows.
    pub cu_seqlens: Vec<u32>,
    /// Rows whose next token carries loss, ascending.
    pub target_rows: Vec<u32>,
    /// That next token, one for each of `target_rows`.
    pub target_ids: Vec<u32>,
}

impl MicroBatch {
    /// An empty micro-batch.
    pub fn new() -> Self {
        Self { cu_seqlens: vec![0], ..Self::default() }
    }

    /// Appends `sample` as a document; `number` is its place in the data set. The last row predicts nothing.
    pub fn push(&mut self, number: u32, sample: &Sample) {
        let start = self.tokens.len();
        for (t, &token) in sample.tokens.iter().enumerate() {
            self.tokens.push(token);
            self.positions.push(t as u32);
            self.samples.push(number);
            if let Some(&label) = sample.labels.get(t + 1)
                && label != NO_LOSS
            {
                self.target_rows.push((start + t) as u32);
                self.target_ids.push(label as u32);
            }
        }
        self.cu_seqlens.push(self.tokens.len() as u32);
    }

    /// Appends a document whose only use is the distribution after its last token; returns that row.
    pub fn push_prompt(&mut self, number: u32, tokens: &[u32]) -> u32 {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(0..tokens.len() as u32);
        self.samples.extend(std::iter::repeat_n(number, tokens.len()));
        self.cu_seqlens.push(self.tokens.len() as u32);
        (start + tokens.len() - 1) as u32
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Number of documents.
    pub fn docs(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Length of the longest document.
    pub fn max_len(&self) -> usize {
        self.cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }
}
