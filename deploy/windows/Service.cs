// Karez as a Windows service: starts it, writes down what it says, asks it to stop as Ctrl-C does, and tells Windows when it died.
//
//   Karez.exe FOLDER LOGS PROGRAM ARGUMENT...
//
// startup.ps1 compiles it with the compiler that is a part of Windows, so it is C# 5 and needs .NET Framework 4 only.

using System;
using System.ComponentModel;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.ServiceProcess;
using System.Text;

internal sealed class Service : ServiceBase
{
    // Karez drains for at most 25 s
    private const int StopMilliseconds = 40000;

    // the configuration or a plugin is wrong, or the bus refuses: another try changes nothing
    private static readonly int[] NotTriedAgain = { 0, 2, 3, 4 };

    private readonly string folder;
    private readonly string program;
    private readonly string arguments;
    private readonly Log log;
    private readonly object gate = new object();
    private Process process;
    private bool isStopping;

    private Service(string[] given)
    {
        CanShutdown = true;
        folder = given[0];
        log = new Log(Path.Combine(given[1], "karez.log"));
        program = given[2];
        arguments = string.Join(" ", given.Skip(3).Select(Quoted));
    }

    private static int Main(string[] given)
    {
        if (given.Length < 3)
        {
            Console.Error.WriteLine("usage: Karez.exe FOLDER LOGS PROGRAM ARGUMENT...; Windows starts it as a service, see startup.ps1");
            return 2;
        }
        Run(new Service(given));
        return 0;
    }

    protected override void OnStart(string[] ignored)
    {
        Native.ShareConsole();
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = folder,
            // it must share our console: that is how Ctrl-C reaches it
            UseShellExecute = false,
            CreateNoWindow = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8,
            StandardErrorEncoding = Encoding.UTF8,
        };
        start.EnvironmentVariables["PYTHONUTF8"] = "1";
        start.EnvironmentVariables["PYTHONUNBUFFERED"] = "1";
        process = new Process { StartInfo = start, EnableRaisingEvents = true };
        process.OutputDataReceived += (sender, line) => log.Write(line.Data);
        process.ErrorDataReceived += (sender, line) => log.Write(line.Data);
        process.Exited += (sender, nothing) => OnExited();
        log.Write("service: starts " + program + " " + arguments);
        process.Start();
        Native.EndWithUs(process);
        process.StandardInput.Close();
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    protected override void OnStop()
    {
        Process running;
        lock (gate)
        {
            isStopping = true;
            running = process;
        }
        if (running == null || running.HasExited)
        {
            return;
        }
        RequestAdditionalTime(StopMilliseconds + 10000);
        log.Write("service: asks Karez to stop");
        Native.PressControlC();
        if (!running.WaitForExit(StopMilliseconds))
        {
            log.Write("service: Karez did not stop in time, and is ended; what was not stored yet is done again after the next start");
            running.Kill();
        }
    }

    protected override void OnShutdown()
    {
        OnStop();
    }

    private void OnExited()
    {
        lock (gate)
        {
            if (isStopping)
            {
                log.Write("service: Karez has stopped");
                return;
            }
        }
        // this one waits for the last lines
        process.WaitForExit();
        int code = process.ExitCode;
        log.Write("service: Karez ended with exit code " + code);
        if (NotTriedAgain.Contains(code))
        {
            ExitCode = code;
            Stop();
            return;
        }
        // a service that dies without a word is started again by Windows
        Process.GetCurrentProcess().Kill();
    }

    private static string Quoted(string argument)
    {
        if (argument.Contains("\"") || argument.EndsWith("\\"))
        {
            throw new ArgumentException("an argument holds a quote, or ends with a backslash: " + argument);
        }
        return "\"" + argument + "\"";
    }
}

// What Karez says: a file of at most 10 MB, and the five before it.
internal sealed class Log
{
    private const long MostBytes = 10 * 1000 * 1000;
    private const int Kept = 5;

    private readonly object gate = new object();
    private readonly string path;

    public Log(string path)
    {
        this.path = path;
        Directory.CreateDirectory(Path.GetDirectoryName(path));
    }

    public void Write(string line)
    {
        if (line == null)
        {
            return;
        }
        lock (gate)
        {
            try
            {
                Rotate();
                File.AppendAllText(path, DateTime.UtcNow.ToString("yyyy-MM-ddTHH:mm:ss.fffZ ") + line + Environment.NewLine);
            }
            catch (IOException)
            {
                // a full disk must not stop the collection
            }
        }
    }

    private void Rotate()
    {
        var file = new FileInfo(path);
        if (!file.Exists || file.Length < MostBytes)
        {
            return;
        }
        File.Delete(path + "." + Kept);
        for (int number = Kept - 1; number > 0; number--)
        {
            if (File.Exists(path + "." + number))
            {
                File.Move(path + "." + number, path + "." + (number + 1));
            }
        }
        File.Move(path, path + ".1");
    }
}

internal static class Native
{
    private const int ExtendedLimitInformation = 9;
    private const uint KillOnJobClose = 0x2000;

    private delegate bool Handler(uint what);

    // kept here, for it to live as long as Windows may call it
    private static readonly Handler Ignore = what => true;

    // a service has no console, and without one there is no Ctrl-C
    public static void ShareConsole()
    {
        AllocConsole();
        // children inherit this one ...
        SetConsoleCtrlHandler(null, false);
        // ... and not that one: Ctrl-C is for them, not for us
        SetConsoleCtrlHandler(Ignore, true);
    }

    public static void PressControlC()
    {
        GenerateConsoleCtrlEvent(0, 0);
    }

    // whatever becomes of us, nothing of it stays behind, nats-server neither
    public static void EndWithUs(Process process)
    {
        IntPtr job = CreateJobObject(IntPtr.Zero, null);
        var limits = new ExtendedLimits();
        limits.Basic.LimitFlags = KillOnJobClose;
        int length = Marshal.SizeOf(typeof(ExtendedLimits));
        IntPtr memory = Marshal.AllocHGlobal(length);
        try
        {
            Marshal.StructureToPtr(limits, memory, false);
            // the handle of the job is never closed: Windows does, when we are gone
            if (job == IntPtr.Zero
                || !SetInformationJobObject(job, ExtendedLimitInformation, memory, (uint)length)
                || (!AssignProcessToJobObject(job, process.Handle) && !process.HasExited))
            {
                throw new Win32Exception();
            }
        }
        finally
        {
            Marshal.FreeHGlobal(memory);
        }
    }

    [DllImport("kernel32.dll", SetLastError = true)]
    private static extern bool AllocConsole();

    [DllImport("kernel32.dll", SetLastError = true)]
    private static extern bool SetConsoleCtrlHandler(Handler handler, bool add);

    [DllImport("kernel32.dll", SetLastError = true)]
    private static extern bool GenerateConsoleCtrlEvent(uint what, uint processGroup);

    [DllImport("kernel32.dll", SetLastError = true, CharSet = CharSet.Unicode)]
    private static extern IntPtr CreateJobObject(IntPtr security, string name);

    [DllImport("kernel32.dll", SetLastError = true)]
    private static extern bool SetInformationJobObject(IntPtr job, int kind, IntPtr information, uint length);

    [DllImport("kernel32.dll", SetLastError = true)]
    private static extern bool AssignProcessToJobObject(IntPtr job, IntPtr process);

    [StructLayout(LayoutKind.Sequential)]
    private struct BasicLimits
    {
        public long PerProcessUserTimeLimit;
        public long PerJobUserTimeLimit;
        public uint LimitFlags;
        public UIntPtr MinimumWorkingSetSize;
        public UIntPtr MaximumWorkingSetSize;
        public uint ActiveProcessLimit;
        public UIntPtr Affinity;
        public uint PriorityClass;
        public uint SchedulingClass;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Counters
    {
        public ulong ReadOperations;
        public ulong WriteOperations;
        public ulong OtherOperations;
        public ulong ReadBytes;
        public ulong WriteBytes;
        public ulong OtherBytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct ExtendedLimits
    {
        public BasicLimits Basic;
        public Counters Counters;
        public UIntPtr ProcessMemoryLimit;
        public UIntPtr JobMemoryLimit;
        public UIntPtr PeakProcessMemoryUsed;
        public UIntPtr PeakJobMemoryUsed;
    }
}
