//! A checkpoint whose linears come from its packed cache.

use super::{absmax_name, packed_name};
use crate::{
    Result,
    model::{
        ModelConfig,
        safetensors::MappedFile,
        source::{LinearData, WeightSource},
    },
    quant::nf4::{self, Nf4},
    rng::NearNormal,
    tensor::{DType, Tensor},
};

/// The checkpoint, and the cache that has its linears.
pub(super) struct Reader<'a> {
    inner: &'a dyn WeightSource,
    file: MappedFile,
}

impl<'a> Reader<'a> {
    pub fn new(inner: &'a dyn WeightSource, file: MappedFile) -> Self {
        Self { inner, file }
    }
}

impl WeightSource for Reader<'_> {
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        self.inner.tensor(name, shape)
    }

    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>> {
        match self.file.entry(&packed_name(path)).filter(|_| !self.inner.stays_dense(path)) {
            Some(packed) => {
                let absmax = self.file.values(&absmax_name(path), n * k / nf4::BLOCK)?;
                Ok(LinearData::Nf4(Nf4 { packed: self.file.bytes(packed).into(), absmax }))
            }
            // The head, or a linear that is not quantised.
            None => self.inner.linear(path, n, k),
        }
    }

    fn dense_dtype(&self) -> DType {
        self.inner.dense_dtype()
    }

    fn recipe(&self, name: &str) -> Option<NearNormal> {
        self.inner.recipe(name)
    }

    fn is_quantized(&self) -> bool {
        self.inner.is_quantized()
    }

    fn is_packed(&self, path: &str) -> bool {
        self.inner.is_packed(path)
    }

    fn stays_dense(&self, path: &str) -> bool {
        self.inner.stays_dense(path)
    }

    fn compute(&self) -> Option<&str> {
        self.inner.compute()
    }

    fn remarks(&self) -> Result<Vec<String>> {
        self.inner.remarks()
    }

    fn fingerprint(&self) -> Result<String> {
        self.inner.fingerprint()
    }

    fn likeness(&self) -> Result<String> {
        self.inner.likeness()
    }

    fn release(&self, name: &str) {
        match name.strip_suffix(".weight") {
            Some(path) if self.file.entry(&packed_name(path)).is_some() => {
                self.file.release(&packed_name(path));
                self.file.release(&absmax_name(path));
            }
            _ => self.inner.release(name),
        }
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
