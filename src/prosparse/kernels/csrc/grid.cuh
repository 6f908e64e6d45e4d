// How threads, blocks and kernels wait for each other.
#pragma once

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;  // the same bits in every lane: each step adds the same two numbers
}

// Programmatic dependent launch: the next kernel's blocks may take their places once all of this one's
// have theirs ...
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ... and wait here until everything the kernel before has written can be seen: before their first
// load, or with FETCHES_FIRST after those of weights, which no kernel just before writes
// (`weights_ready` of the operators).
__device__ __forceinline__ void wait_for_previous_kernel() {
#if FOLLOWS && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_before_weights() {
  if (!FETCHES_FIRST) wait_for_previous_kernel();
}
__device__ __forceinline__ void wait_before_activations() {
  if (FETCHES_FIRST) wait_for_previous_kernel();
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// A place in this block's shared memory that other blocks of its cluster fill. Arrivals are counted
// by bytes at the receiver: no block waits at a barrier, and no fence holds up its other traffic.
struct Mailbox {
  u64 barrier;

  // By all threads. Other blocks may send only after `opened` has returned in their block.
  __device__ __forceinline__ void open(u32 expected_bytes) {
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&barrier)) : "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(expected_bytes) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  }
  __device__ __forceinline__ void opened() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

  // Write a float to block `rank`, at the address that `p` has in this block.
  __device__ __forceinline__ void send(const float* p, u32 rank, float v) {
    u32 there, counter;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(shared_address(&barrier)), "r"(rank));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(there), "f"(v), "r"(counter) : "memory");
  }

  // Wait until all expected bytes are here.
  __device__ __forceinline__ void receive() {
    asm volatile(
        "{\n"
        ".reg .pred here;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 here, [%0], 0;\n"
        "@!here bra again;\n"
        "}" ::"r"(shared_address(&barrier)) : "memory");
  }
};
#endif
