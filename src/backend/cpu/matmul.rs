//! Matrices as views of slices, and their product by the `gemm` crate.

use gemm::Parallelism;

/// A matrix that is read: element (i, j) is `data[i·row + j·column]`.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a> Mat<'a> {
    /// `rows`×`columns` in row-major order, rows `stride` elements apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, stride), "{rows}x{columns} by {stride} in {}", data.len());
        Self { data, rows, columns, row: stride, column: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }
}

/// A row-major matrix that is written.
pub(super) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatMut<'a> {
    /// `rows`×`columns` in row-major order, rows `stride` elements apart.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, stride), "{rows}x{columns} by {stride} in {}", data.len());
        assert!(columns <= stride || rows <= 1, "rows of a written matrix must not overlap");
        Self { data, rows, columns, stride }
    }
}

fn fits(len: usize, rows: usize, columns: usize, stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * stride + columns <= len
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Threads {
    /// The calling thread.
    One,
    /// All threads of the pool that the caller runs in.
    All,
}

/// `y = scale·a·b`, or `y += scale·a·b`.
///
/// The order of the additions within an element depends on the shapes only.
pub(super) fn multiply(y: MatMut, accumulate: bool, scale: f32, a: Mat, b: Mat, threads: Threads) {
    assert_eq!((a.rows, a.columns, b.columns), (y.rows, b.rows, y.columns), "shapes of a product");
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: the constructors have checked that (rows - 1)·stride + columns elements of row-major storage lie in each
    // slice, which holds for the transposed views of the same storage too; the shapes agree by the assertion above; `y` is
    // borrowed exclusively, so it overlaps neither operand, and its rows do not overlap each other.
    unsafe {
        gemm::gemm(
            y.rows,
            y.columns,
            a.columns,
            y.data.as_mut_ptr(),
            1,
            y.stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// GFLOP/s of a product of 512×512 matrices on all threads: the median of a few, in some tens of milliseconds. A quick
/// look at the machine for people, not a benchmark.
pub fn measure_gflops() -> f64 {
    const N: usize = 512;
    const RUNS: usize = 9;
    let (a, b, mut y) = (vec![1.0f32; N * N], vec![0.5f32; N * N], vec![0.0f32; N * N]);
    let mut run = || {
        let began = std::time::Instant::now();
        let (a, b) = (Mat::new(&a, N, N, N), Mat::new(&b, N, N, N));
        multiply(MatMut::new(&mut y, N, N, N), false, 1.0, a, b, Threads::All);
        began.elapsed().as_secs_f64().max(1e-9)
    };
    run();
    let mut seconds: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    seconds.sort_by(f64::total_cmp);
    2e-9 * (N * N * N) as f64 / seconds[RUNS / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_machine_multiplies() {
        let gflops = measure_gflops();
        assert!(gflops > 0.01 && gflops < 1e6, "{gflops}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_sum_of_products(
            m in 0usize..20, n in 0usize..20, k in 0usize..70, pad in 0usize..3, ta: bool, tb: bool, acc: bool, all: bool,
        ) {
            let fill = |len: usize, seed: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 31 + seed * 17) % 23) as f32 - 11.0).collect()
            };
            let shape = |r: usize, c: usize, t: bool| if t { (c, r) } else { (r, c) };
            let ((ar, ac), (br, bc)) = (shape(m, k, ta), shape(k, n, tb));
            let (a, b) = (fill(ar * (ac + pad), 1), fill(br * (bc + pad), 2));
            let mut y = fill(m * (n + pad), 3);
            let mut want = y.clone();
            for i in 0..m {
                for j in 0..n {
                    let sum: f32 = (0..k).map(|l| {
                        let x = if ta { a[l * (ac + pad) + i] } else { a[i * (ac + pad) + l] };
                        let z = if tb { b[j * (bc + pad) + l] } else { b[l * (bc + pad) + j] };
                        x * z
                    }).sum();
                    let w = &mut want[i * (n + pad) + j];
                    *w = if acc { *w } else { 0.0 } + 0.5 * sum;
                }
            }
            let view = |d, r, c, t| { let v = Mat::new(d, r, c, c + pad); if t { v.t() } else { v } };
            let threads = if all { Threads::All } else { Threads::One };
            multiply(MatMut::new(&mut y, m, n, n + pad), acc, 0.5, view(&a, ar, ac, ta), view(&b, br, bc, tb), threads);
            prop_assert_eq!(y, want); // small integers: every sum is exact
        }
    }
}
