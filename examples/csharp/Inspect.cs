// Inspects one raw grey frame with a plan: Inspect PLAN FRAME.raw WIDTH HEIGHT
using System;
using System.Globalization;
using System.IO;

static class Inspect {
  static int Main(string[] args) {
    if (args.Length != 4) {
      Console.Error.WriteLine("usage: Inspect PLAN FRAME.raw WIDTH HEIGHT (8-bit grey)");
      return 2;
    }
    try {
      using (var engine = new Adfast.Engine(args[0])) {
        Adfast.Result result = engine.Predict(File.ReadAllBytes(args[1]), int.Parse(args[2]),
                                              int.Parse(args[3]), Adfast.PixelFormat.Mono8);
        Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "score {0:G9} threshold {1:G9} {2}",
                                        result.Score, result.Threshold,
                                        result.IsAnomalous ? "anomalous" : "good"));
      }
      return 0;
    } catch (Adfast.Failure failure) {
      Console.Error.WriteLine(failure.Message);
      return 1;
    }
  }
}
