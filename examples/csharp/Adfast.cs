// adfast from C#: the declarations of adfast.h for P/Invoke, and a small class over them.
//
//   using (var engine = new Adfast.Engine("part.plan")) {
//     Adfast.Result result = engine.Predict(pixels, width, height, Adfast.PixelFormat.Mono8);
//     if (result.IsAnomalous) Reject();
//   }
//
// libadfast.so must be where the loader looks: LD_LIBRARY_PATH, or beside the program. A test of the
// package holds names, fields and values here against adfast.h; what each means stands there.
using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Adfast {

public enum Status : int {
  Ok = 0,
  ErrorPlan = 1,
  ErrorFrame = 2,
  ErrorArgument = 3,
  ErrorIo = 4,
  ErrorRun = 5,
  ErrorFull = 6,
  ErrorClosed = 7,
  Timeout = 8
}

public enum Policy : int {
  Block = 0,
  DropOldest = 1,
  DropNewest = 2,
  Reject = 3
}

public enum Severity : int {
  Debug = 0,
  Info = 1,
  Warning = 2,
  Error = 3
}

public enum PixelFormat : uint {
  Mono8 = 0x01080001,
  Mono10 = 0x01100003,
  Mono12 = 0x01100005,
  Mono16 = 0x01100007,
  BayerGr8 = 0x01080008,
  BayerRg8 = 0x01080009,
  BayerGb8 = 0x0108000A,
  BayerBg8 = 0x0108000B,
  Rgb8 = 0x02180014,
  Bgr8 = 0x02180015
}

// Fields in the order of adfast.h, with its names. size_t is UIntPtr, ptrdiff_t and pointers are
// IntPtr, texts are UTF-8.
[StructLayout(LayoutKind.Sequential)]
public struct adfast_options {
  public UIntPtr struct_size;
  public int threads;
  public int frames_at_once;
  public IntPtr precision;
  public IntPtr tactics;
  public IntPtr device;
  public IntPtr folders;
  public IntPtr public_key;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_rectangle {
  public int x;
  public int y;
  public int width;
  public int height;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_frame {
  public UIntPtr struct_size;
  public IntPtr data;
  public int width;
  public int height;
  public IntPtr row_stride;
  public uint pixel_format;
  public adfast_rectangle roi;
  public IntPtr ignore;
  public IntPtr ignore_stride;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_result {
  public UIntPtr struct_size;
  public IntPtr map;
  public IntPtr network_map;
  public float score;
  public float threshold;
  public int is_anomalous;
  public double frame_ms;
  public double network_ms;
  public double map_ms;
  public double total_ms;
  public adfast_rectangle inspected;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_region {
  public adfast_rectangle box;
  public long area;
  public float peak;
  public float mean;
  public int peak_x;
  public int peak_y;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_region_options {
  public UIntPtr struct_size;
  public float threshold;
  public IntPtr thresholds;
  public float min_peak;
  public long min_area;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_info {
  public UIntPtr struct_size;
  public int map_width;
  public int map_height;
  public int threads;
  public float threshold;
  public IntPtr precision;
  public IntPtr isa;
  public IntPtr model;
  public IntPtr device;
  public int tile_width;
  public int tile_height;
  public int tile_overlap;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_memory {
  public UIntPtr struct_size;
  public ulong weights;
  public ulong frame;
  public ulong loading;
  public ulong running;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_counters {
  public UIntPtr struct_size;
  public ulong frames;
  public ulong anomalous;
  public ulong failures;
  public double mean_ms;
  public double p50_ms;
  public double p90_ms;
  public double p99_ms;
  public double p999_ms;
  public double max_ms;
  public double drift_distance;
  public double drift_limit;
  public int drift_alarm;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_stream_result {
  public UIntPtr struct_size;
  public ulong ticket;
  public ulong id;
  public long timestamp;
  public ulong dropped_before;
  public Status status;
  public IntPtr error;
  public float score;
  public float threshold;
  public int is_anomalous;
  public int width;
  public int height;
  public IntPtr map;
  public adfast_rectangle inspected;
  public double queue_ms;
  public double total_ms;
  public double frame_ms;
  public double network_ms;
  public double map_ms;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_stream_options {
  public UIntPtr struct_size;
  public int capacity;
  public int policy;
  public double deadline_ms;
  public int with_map;
  public IntPtr callback;
  public IntPtr user;
}

[StructLayout(LayoutKind.Sequential)]
public struct adfast_stream_counters {
  public UIntPtr struct_size;
  public ulong submitted;
  public ulong completed;
  public ulong failed;
  public ulong dropped_oldest;
  public ulong dropped_newest;
  public ulong rejected;
  public ulong expired;
  public ulong discarded;
  public ulong queued;
  public ulong working;
  public ulong waiting;
  public ulong callback_errors;
  public double p50_ms;
  public double p90_ms;
  public double p99_ms;
  public double max_ms;
}

public static class Native {
  const string Library = "adfast";

  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_load(byte[] path, ref adfast_options options,
                                          out IntPtr engine);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern void adfast_destroy(IntPtr engine);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_predict(IntPtr engine, ref adfast_frame frame,
                                             ref adfast_result result);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_predict_batch(IntPtr engine, [In] adfast_frame[] frames,
                                                   [In, Out] adfast_result[] results,
                                                   UIntPtr count);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_get_info(IntPtr engine, ref adfast_info info);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_get_memory(IntPtr engine, int width, int height,
                                                ref adfast_memory memory);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern IntPtr adfast_last_error();
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern IntPtr adfast_version();
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_find_regions([In] float[] map, int width, int height,
                                                  ref adfast_region_options options,
                                                  [Out] adfast_region[] regions,
                                                  UIntPtr capacity, out UIntPtr count);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_warmup(IntPtr engine, int count);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_get_counters(IntPtr engine, ref adfast_counters counters);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_stream_open(IntPtr engine, ref adfast_stream_options options,
                                                 out IntPtr stream);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_stream_submit(IntPtr stream, ref adfast_frame frame, ulong id,
                                                   long timestamp, out ulong ticket);
  // The result is an adfast_stream_result, until it is released.
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_stream_poll(IntPtr stream, double timeout_ms,
                                                 out IntPtr result);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern void adfast_stream_release(IntPtr result);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_stream_close(IntPtr stream, int drain);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern void adfast_stream_destroy(IntPtr stream);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_stream_get_counters(IntPtr stream,
                                                         ref adfast_stream_counters counters);
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern Status adfast_metrics_text(IntPtr engine, IntPtr stream, byte[] text,
                                                  UIntPtr capacity, out UIntPtr needed);
  // A delegate that the program keeps alive: void (Severity, IntPtr line, IntPtr user).
  [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
  public static extern void adfast_set_log(IntPtr callback, IntPtr user, Severity least);
}

public class Failure : Exception {
  public readonly Status Status;

  public Failure(Status status, string message) : base(message) { Status = status; }
}

public struct Result {
  public float Score;
  public float Threshold;  // NaN when the plan is not calibrated
  public float[] Map;      // height x width, row by row
  public double Milliseconds;

  public bool IsAnomalous { get { return Score > Threshold; } }
}

// May be used from many threads, which take turns.
public sealed class Engine : IDisposable {
  IntPtr engine;

  // `publicKey`: 32 bytes, only a plan signed with its private key is loaded; null: any.
  public Engine(string path, int threads = 0, byte[] publicKey = null) {
    if (publicKey != null && publicKey.Length != 32) {
      throw new ArgumentException("a public key has 32 bytes", "publicKey");
    }
    GCHandle key = publicKey == null ? default(GCHandle)
                                     : GCHandle.Alloc(publicKey, GCHandleType.Pinned);
    try {
      var options = new adfast_options();
      options.struct_size = SizeOf<adfast_options>();
      options.threads = threads;
      if (publicKey != null) options.public_key = key.AddrOfPinnedObject();
      Check(Native.adfast_load(Encoding.UTF8.GetBytes(path + "\0"), ref options, out engine));
    } finally {
      if (publicKey != null) key.Free();
    }
  }

  // `rowStride` in bytes; 0 when rows follow each other.
  public Result Predict(byte[] pixels, int width, int height, PixelFormat format,
                        int rowStride = 0) {
    long bytes = format == PixelFormat.Rgb8 || format == PixelFormat.Bgr8 ? 3
               : format == PixelFormat.Mono10 || format == PixelFormat.Mono12 ||
                 format == PixelFormat.Mono16 ? 2 : 1;
    long row = width * bytes;
    if (width < 1 || height < 1 || rowStride < 0 ||
        pixels.LongLength < (rowStride == 0 ? row : rowStride) * (height - 1L) + row) {
      throw new ArgumentException("the array does not hold a frame of that size", "pixels");
    }
    var map = new float[(long)width * height];
    GCHandle source = GCHandle.Alloc(pixels, GCHandleType.Pinned);
    GCHandle target = GCHandle.Alloc(map, GCHandleType.Pinned);
    try {
      var frame = new adfast_frame();
      frame.struct_size = SizeOf<adfast_frame>();
      frame.data = source.AddrOfPinnedObject();
      frame.width = width;
      frame.height = height;
      frame.row_stride = new IntPtr(rowStride);
      frame.pixel_format = (uint)format;
      var raw = new adfast_result();
      raw.struct_size = SizeOf<adfast_result>();
      raw.map = target.AddrOfPinnedObject();
      Check(Native.adfast_predict(engine, ref frame, ref raw));
      return new Result { Score = raw.score, Threshold = raw.threshold, Map = map,
                          Milliseconds = raw.total_ms };
    } finally {
      source.Free();
      target.Free();
    }
  }

  public void Dispose() {
    Native.adfast_destroy(engine);
    engine = IntPtr.Zero;
  }

  static void Check(Status status) {
    if (status != Status.Ok) throw new Failure(status, Text(Native.adfast_last_error()));
  }

  static UIntPtr SizeOf<T>() { return new UIntPtr((uint)Marshal.SizeOf(typeof(T))); }

  static string Text(IntPtr text) {
    int length = 0;
    while (Marshal.ReadByte(text, length) != 0) ++length;
    var bytes = new byte[length];
    Marshal.Copy(text, bytes, 0, length);
    return Encoding.UTF8.GetString(bytes);
  }
}

}  // namespace Adfast
